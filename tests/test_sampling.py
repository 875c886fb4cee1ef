"""Some cases of a test run by default, always the same ones, and the others as slow ones."""

from __future__ import annotations

import pytest

from tests.sampling import sample, sample_marked


class Case:
    """A case of a test, as pytest collects it."""

    def __init__(self, nodeid, *marks):
        self.nodeid, self.marks = nodeid, list(marks)

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, name):
        self.marks.append(getattr(pytest.mark, name).mark)

    @property
    def is_slow(self):
        return self.get_closest_marker("slow") is not None


def cases(nodeid, number, *marks):
    return [Case(f"{nodeid}[{k}]", *marks) for k in range(number)]


def test_a_marked_test_runs_so_many_of_its_cases():
    def draw():
        many = cases("a.py::test_many", 20, pytest.mark.sampled(5).mark)
        few = cases("a.py::test_few", 3, pytest.mark.sampled(5).mark)
        others = cases("a.py::test_other", 20)
        sample_marked([*many, *few, *others])
        assert not any(case.is_slow for case in (*few, *others))
        slow = cases("a.py::test_slow", 20, pytest.mark.sampled(5).mark)
        for case in slow[:15]:
            case.add_marker("slow")
        sample_marked(slow)
        assert not any(case.is_slow for case in slow[15:])
        return [case.is_slow for case in many]

    drawn = draw()
    assert drawn.count(False) == 5
    assert drawn == draw()


def test_a_case_that_is_asked_for_runs():
    [case] = cases("a.py::test_many", 1, pytest.mark.sampled(5).mark)
    sample_marked([case])
    assert not case.is_slow


def test_values_of_a_parameter_are_drawn():
    drawn = sample([(k, -k) for k in range(9)], 4)
    assert [param.values for param in drawn] == [(k, -k) for k in range(9)]
    assert sum(not param.marks for param in drawn) == 4
