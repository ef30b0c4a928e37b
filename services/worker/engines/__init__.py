"""The static analysers the worker can run, one module each, which reports unjudged what its analyser said."""
