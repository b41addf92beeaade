"""Models on disk and on the Hub, and what they hold and cost."""
