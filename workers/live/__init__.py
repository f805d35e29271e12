"""The live worker: answers what readers ask of a model or its features, at once, in a process of its own."""
