"""What the lessons show of kubectl, with a cluster and without one."""

import pytest

from tutorial import kubernetes


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Replace kubectl by a program that knows one cluster and prints its arguments."""
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\n[ "$2" = here ] && echo "$@" || exit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(kubernetes, "kubectl", lambda: str(program))


@pytest.mark.usefixtures("kubectl")
def test_show_prints_command_and_output_where_the_cluster_answers(capsys):
    kubernetes.show("-n clothing get pods", "here")
    assert capsys.readouterr().out == (
        "$ kubectl -n clothing get pods\n--context here -n clothing get pods\n"
    )


@pytest.mark.usefixtures("kubectl")
def test_show_prints_only_the_command_where_no_cluster_answers(capsys):
    kubernetes.show("get nodes", "elsewhere")
    assert capsys.readouterr().out == ("$ kubectl get nodes\n  (not run: there is no cluster)\n")
