"""What several steps share: the records that pass between them, statistics, the language model, the logs they meet in."""
