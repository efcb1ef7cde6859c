"""What models are asked and how replies are scored, as data; and the same as tasks of Inspect.

Plain, and used by `s3lora eval` too: cases, measures, runs, suites, texts. For Inspect: batches,
bridge, peft, tools, scorers, solvers, tasks, and registry, which is what Inspect loads.
"""
