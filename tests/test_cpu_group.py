"""The group over which ranks agree: its timeout, and a network on which it cannot connect."""

import pytest
from helpers import cpu_groups
from helpers.forked import run_apart


@pytest.mark.multiprocess
@pytest.mark.parametrize(('configured', 'expected'), [(7200, 7200), (60, 1800)])
def test_it_waits_as_long_as_the_group_of_the_gradients(configured, expected):
    """And never less than gloo's own 30 minutes: a save on a slow disk takes its time."""
    run_apart(cpu_groups.timeout, configured, expected).check_returncode()


@pytest.mark.multiprocess
def test_a_network_interface_that_gloo_cannot_use_is_named_by_its_variable():
    done = run_apart(cpu_groups.wrong_interface)
    assert done.returncode == 1
    assert 'RuntimeError: The ranks cannot connect over gloo (' in done.stdout
    assert 'set GLOO_SOCKET_IFNAME to the interface of their network, such as eth0.' in done.stdout
