"""Foreign suites at the edge: their simulators behind the lab's contracts."""
