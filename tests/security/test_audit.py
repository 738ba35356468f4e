"""The lock holds what is installed, and the check of it would notice what does not."""

from __future__ import annotations

from tests.security.audit import audit, pins, undeclared, unpinned


def test_everything_that_is_installed_is_pinned() -> None:
    assert audit() == []


def test_what_the_check_would_notice() -> None:
    pinned, wrong = pins("# lock\nA.b==1.0\nrange>=2\nurl @ https://host/x.whl\na_b==2.0\ntorch==2.13.0\n")
    assert pinned == {"a-b": "1.0", "torch": "2.13.0"}
    assert len(wrong) == 3
    assert unpinned({"a-b": "1.0", "torch": "2.13.0+cpu", "pip": "23"}, pinned) == []
    assert len(unpinned({"a-b": "1.1", "stranger": "3"}, pinned)) == 2
    project = {
        "dependencies": ["a_b>=1", "torch[x]==2.13.0"],
        "optional-dependencies": {"test": ["other", "a-b @ https://host"]},
    }
    assert len(undeclared(project, pinned)) == 2
