"""Grid-world tasks whose objects are the reward: what update rules are learned on."""
