"""Learning from recorded steps: behavioural and compositional conservatism."""
