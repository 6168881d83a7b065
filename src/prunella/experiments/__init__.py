"""One typed config → run() → a folder with result.json."""
