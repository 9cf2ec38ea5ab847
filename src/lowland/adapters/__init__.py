"""SAM inside the trainers people already use, each an extra."""
