"""Only one thread of this process makes a model at a time."""

import threading

one_at_a_time = threading.RLock()
"""Held by the thread that makes a model.

While Transformers does, torch's default number format is the model's and
`PreTrainedModel.tie_weights` does nothing (`transformers/initialization.py`). Two threads inside
each other's window would put back what the other had set: from then on no model of this process
would have its embeddings tied to its output head.
"""
