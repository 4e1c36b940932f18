import numpy as np

from lomt.data.label_edges import bridge_seams, label_edges


def test_both_sides_of_a_boundary():
    labels = np.zeros((4, 6), int)
    labels[:, 3:] = 1
    assert label_edges(labels, None).tolist() == [[0, 0, 1, 1, 0, 0]] * 4


def test_against_a_slow_second_implementation():
    labels = np.random.default_rng(0).integers(-1, 3, (9, 11))
    edges = label_edges(labels, -1)
    for row in range(9):
        for column in range(11):
            around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            near = [labels[r, c] for r, c in around if 0 <= r < 9 and 0 <= c < 11]
            here = labels[row, column]
            wanted = -1 if here == -1 else int(any(label not in (here, -1) for label in near))
            assert edges[row, column] == wanted


def test_seams_are_closed_up_to_twice_the_width():
    labels = np.array([[1, 1, 0, 0, 2, 2]] * 3)
    assert bridge_seams(labels, 0, 1).tolist() == [[1, 1, 1, 2, 2, 2]] * 3
    assert label_edges(bridge_seams(labels, 0, 1), 0)[1].tolist() == [0, 0, 1, 1, 0, 0]
    wide = np.array([[1, 0, 0, 0, 0, 2]])
    assert bridge_seams(wide, 0, 1).tolist() == [[1, 1, 0, 0, 2, 2]]
    assert label_edges(bridge_seams(wide, 0, 1), 0).tolist() == [[0, 0, -1, -1, 0, 0]]


def test_the_labels_given_are_not_changed():
    labels = np.array([[1, 0, 2]])
    bridge_seams(labels, 0, 2)
    assert labels.tolist() == [[1, 0, 2]]
