"""What several steps share: the records between them, statistics, the language model, the logs they meet in."""
