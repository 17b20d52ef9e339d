"""A tiny model that has something to say."""

import torch

from agent_finetune.testing import tiny_model, tiny_tokenizer


def save_talkative_model(folder):
    """Write a model whose greedy answers have words in them and no end; answer the folder.

    A tied model with small random weights repeats the prompt's last token, a newline, for ever.
    """
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    embedding = model.get_input_embeddings().weight
    words = [
        i
        for i in range(len(tokenizer))
        if tokenizer.decode([i]).strip().isascii() and tokenizer.decode([i]).strip().isalnum()
    ]
    with torch.no_grad():
        for name, weight in model.model.layers.named_parameters():
            if "norm" not in name:
                weight.mul_(15)
        quiet = torch.ones(len(tokenizer), dtype=torch.bool)
        quiet[words] = False
        embedding[quiet] *= 0.1
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
