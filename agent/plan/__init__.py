"""Pure planners: from what the broker says and what the disk shows to the next step."""
