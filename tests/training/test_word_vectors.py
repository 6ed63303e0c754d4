# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from butd_hf.training.word_vectors import fill_token_embeddings, label_embeddings, read_word_vectors


@pytest.fixture
def file(tmp_path):
    """As word2vec writes it, with a head line; "horse" and "cow" mean much the same."""
    lines = ["7 3", "horse 1 0 0.1", "cow 0.9 0 0.1", "light 0 1 0", "traffic 0 0.8 0.4", "street 0 -1 0", "7 5 5 5"]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "vectors.txt"


def test_words_are_read_and_others_are_not(file):
    vectors = read_word_vectors(file, {"horse", "7", "unicorn"})
    assert set(vectors) == {"horse", "7"} and vectors["7"].tolist() == [5, 5, 5]
    torch.testing.assert_close(vectors["horse"], torch.tensor([1, 0, 0.1]))


def test_labels_that_mean_the_same_begin_alike(file):
    torch.manual_seed(0)
    names = ["horse", "Cow", "traffic light", "unicorn", "light,street"]
    embeddings = label_embeddings(names, file, hidden_size=512)
    assert embeddings.shape == (5, 512) and not embeddings[3].any()
    alike = torch.nn.functional.cosine_similarity(embeddings[0, None], embeddings)
    assert alike[1] > 0.95 and alike[2] < 0
    # as large as embeddings that begin at random
    torch.testing.assert_close(embeddings[[0, 1, 2, 4]].std(dim=1), torch.ones(4), rtol=0.2, atol=0)


def test_flawed_files_are_named(file):
    with pytest.raises(ValueError, match=r"none of \['unicorn'\]"):
        label_embeddings(["unicorn"], file, hidden_size=4)
    file.write_text("horse 1 2\ncow 1 x\n")
    with pytest.raises(ValueError, match="line 2: 'cow' has no vector of numbers"):
        label_embeddings(["horse", "cow"], file, hidden_size=4)
    file.write_text("horse 1 2\ncow 1\n")
    with pytest.raises(ValueError, match="line 2: 'cow' has 1 numbers, expected 2"):
        label_embeddings(["horse", "cow"], file, hidden_size=4)


def test_tokens_begin_as_the_vectors_of_their_words(file):
    embeddings = torch.full((4, 3), 0.5)
    fill_token_embeddings(embeddings, {"<pad>": 0, "cow": 1, "unicorn": 2, "horse": 3}, file)
    torch.testing.assert_close(embeddings[[1, 3]], torch.tensor([[0.9, 0, 0.1], [1, 0, 0.1]]))
    assert (embeddings[[0, 2]] == 0.5).all()
    with pytest.raises(ValueError, match="none of"):
        fill_token_embeddings(embeddings, {"unicorn": 2}, file)
    with pytest.raises(ValueError, match="vectors of 3 numbers, expected 8"):
        fill_token_embeddings(torch.zeros(4, 8), {"cow": 1}, file)
