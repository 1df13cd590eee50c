"""Zero-shot evaluation, statistics, reports and pictures."""
