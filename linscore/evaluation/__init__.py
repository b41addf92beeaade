"""How well a model predicts a text and answers the questions of benchmarks, and what it costs."""
