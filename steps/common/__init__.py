"""What several steps share: the records that pass between them, statistics, the language model, tracking, and the logs they meet in."""
