"""Published benchmarks of questions: their own files in, answers by the one evaluation, and their
own figures, rules and prompts beside ours."""
