"""A small model as three: a planner decides, a caller writes calls, a summarizer answers.

After "Small LLMs Are Weak Tool Learners: A Multi-LLM Agent" (arXiv 2401.07324), with three
adapters on one base instead of three models. `prompts` is what each part sees and says, `data`
makes training rows of it.
"""
