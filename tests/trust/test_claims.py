"""Every claim of docs/trust.md has tests that attack it; a new claim without one fails here."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT

PAGE = "docs/trust.md"
STORED = "config/test_stored.py"
IN_LINKS = "config/test_stored_links.py"
LINKS = f"{IN_LINKS}::test_what_a_run_writes_stays_in_its_directory"
WHOLE = "trust/test_places.py::test_a_directory_of_a_stranger_as_a_whole"
LINES = (
    f"{STORED}::test_no_line_of_a_directory_names_code_or_a_place",
    f"{STORED}::test_no_line_that_is_run_again_does_either",
    f"{STORED}::test_each_as_it_stands",
)
#: The tests of a claim, below tests/, by how the claim begins.
TESTS = {
    "the command line": (
        f"{STORED}::test_hydras_own_part_is_not_for_the_command_line",
        f"{STORED}::test_what_is_typed_takes_the_place_of_what_is_stored",
    ),
    "a directory named by `--config-dir`": (
        "config/test_own_choices.py::test_it_is_what_the_run_gets",
        "config/test_own_choices.py::test_a_directory_does_not_bring_its_choices_along",
    ),
    "a package named by `allow": (
        *LINES,
        "results/test_showing.py::test_nothing_dangerous_is_exported",
    ),
    "the current directory": (
        "trust/test_places.py::test_what_is_installed_is_imported_before_the_current_directory",
    ),
    "`$XDG_CACHE_HOME`": ("trust/test_places.py::test_a_kernel_of_another_user_is_not_loaded",),
    "a run's directory": (*LINES, WHOLE),
    "a checkpoint or weights": (
        "trust/test_checkpoints.py::test_a_checkpoint_that_would_run_something_is_refused",
        "checkpoints/test_files.py::test_an_archive_that_grows_in_memory_is_not_loaded",
        "trust/test_checkpoints.py::test_a_path_to_elsewhere_is_forgotten",
        "trust/test_checkpoints.py::test_a_resumed_run_believes_no_path_and_no_class",
    ),
    "a sweep's directory": (
        f"{STORED}::test_no_line_of_a_sweep_names_code_or_a_place",
        "sweeps/test_foreign_files.py::test_no_value_in_a_record_stops_it",
    ),
    "a search's directory": (
        "search/test_planning.py::test_search_json_may_be_a_strangers",
        "search/test_storages.py::test_values_of_a_stranger_are_no_overrides",
        "search/test_storages.py::test_what_is_no_study_is_refused_in_one_line",
        "search/test_journal.py::test_what_is_no_journal_is_refused_and_left_as_it_is",
        "search/test_strange_studies.py::test_a_file_that_would_run_something_is_refused",
        "search/test_strange_studies.py::test_no_value_of_a_table_is_believed",
        "search/test_strange_studies.py::test_no_value_of_a_journal_is_believed",
    ),
    "a directory that `lit-optim report`": (
        "results/test_page.py::test_names_of_strangers_are_text",
        "results/test_page.py::test_nothing_that_is_put_in_runs",
        "results/test_contest.py::test_strange_names_stay_text_and_within_the_folder",
        "results/test_cells.py::test_no_spreadsheet_calculates_what_a_run_says",
        "results/test_reading.py::test_a_command_that_says_more_than_plain_values_is_left_to_rerun",
        "test_results.py::test_no_terminal_obeys_what_a_run_says",
        "test_results.py::test_no_terminal_obeys_the_overrides_of_a_run",
        WHOLE,
    ),
    "`hf=FILE`": (
        "config/test_hf_command_line.py::test_a_file_that_is_none",
        "config/test_own_files.py::test_values_that_cannot_be_made",
    ),
    "`data.path=FILE`": ("tasks/test_data_and_models.py::test_char_text",),
    "Hydra's own keys": LINES,
    "choices that are not files": LINES,
    "loggers given by class": LINES,
    "keys in a mapping": LINES,
    "references outside": LINES,
    "a checkpoint to load": LINES,
    "where a search keeps": ("search/test_planning.py::test_search_json_may_be_a_strangers",),
    "If you want such an override": (
        f"{STORED}::test_what_is_typed_takes_the_place_of_what_is_stored",
    ),
    "`allow` is ignored there": LINES,
    "A class that a YAML file": (
        "config/test_own_choices.py::test_its_keys_are_checked_like_ours",
    ),
    "`lit-optim rerun DIR` reads": (f"{STORED}::test_what_is_checked_is_what_is_run_again",),
    "A run writes only": (
        LINKS,
        f"{IN_LINKS}::test_no_link_leads_out_of_a_run",
        f"{IN_LINKS}::test_a_sweep_starts_no_run_elsewhere",
        "search/test_links.py::test_a_search_with_a_link_out_of_it_is_refused",
        "search/test_links.py::test_a_worker_says_so",
        WHOLE,
    ),
    "Links within the directory": (f"{IN_LINKS}::test_a_link_within_the_directory_is_left_alone",),
    "`lit-optim board` refuses": ("test_board.py::test_what_would_be_waited_for_is_refused",),
    "The programs lit-optim starts": (
        "trust/test_programs.py::test_the_commit_is_read_without_a_program_of_the_repository",
        "trust/test_programs.py::test_tensorboard_is_not_taken_from_the_directory_that_is_looked_at",
        "trust/test_programs.py::test_the_tab_key_offers_no_name_that_a_shell_would_run",
    ),
    "All of these files": (
        "test_untrusted.py::test_no_kind_of_file_hangs_or_raises_anything_else",
        "test_untrusted.py::test_yaml_that_expands_or_runs_something_is_refused",
        "sweeps/test_foreign_files.py::test_no_kind_of_file_stops_it",
        "config/test_own_files.py::test_files_of_no_use",
        "results/test_reading.py::test_no_kind_of_file_stops_the_reading",
    ),
}  # fmt: skip
#: Sentences of what is not protected, or of what the page is about.
NO_CLAIM = (
    "What you type is yours", "What a file says without you", "These overrides in a run's",
    "Hard links look like any", "Not covered",
)  # fmt: skip


def claims():
    """The rows, the points of lists and the sentences of the page."""
    text = (ROOT / PAGE).read_text("utf-8")
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("#"):
            continue
        if lines[0].startswith("|"):
            yield from (line.strip("| ") for line in lines[2:])
        elif lines[0].startswith("- "):
            yield from re.split(r"^- ", block, flags=re.M)[1:]
        else:
            yield from re.split(r"(?<=\.) (?=[A-Z`])", " ".join(lines))


CLAIMS = list(claims())


@cache
def functions_of(path):
    tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[:30])
def test_it_is_attacked(claim):
    if claim.startswith(NO_CLAIM):
        return
    [found] = [begin for begin in TESTS if claim.startswith(begin)] or ["no test of this claim"]
    assert found in TESTS
    assert TESTS[found]
    for test in TESTS[found]:
        path, _, name = test.partition("::")
        assert name in functions_of(path), test


@pytest.mark.parametrize("begin", [*TESTS, *NO_CLAIM])
def test_it_stands_in_the_page(begin):
    assert sum(claim.startswith(begin) for claim in CLAIMS) == 1
