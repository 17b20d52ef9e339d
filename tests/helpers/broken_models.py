"""Models, GGUF files and adapters for `broken_inputs` to break."""

import json
import shutil
import warnings
from pathlib import Path

from broken_data import Kind
from broken_inputs import as_json, broken_bytes, broken_value


class Model(Kind):
    """Model folders: every file in them but the pickles, which are never opened."""

    def __init__(self, folder):
        from agent_finetune.testing import save_tiny_model

        super().__init__(folder)
        self.folder = save_tiny_model(folder / "specimen")
        self.files = [p.name for p in Path(self.folder).iterdir()]

    often = ("config.json", "tokenizer_config.json")
    """Files that are broken more often than others."""

    def __call__(self, draw, room):
        place = room / "model"
        shutil.copytree(self.folder, place)
        name = draw.choice([*self.files, *self.often])
        self.damage(draw, place / name)
        weights = place / "model.safetensors"
        if weights.exists() and draw.random() < 0.1:
            weights.rename(place / "pytorch_model.bin")
        elif weights.exists() and draw.random() < 0.1:
            index = {"metadata": {}, "weight_map": {"lm_head.weight": "../../x.safetensors"}}
            (place / "model.safetensors.index.json").write_bytes(
                broken_bytes(draw, as_json(index)) if draw.random() < 0.5 else as_json(index)
            )
            (place / "model.safetensors").rename(place / "model-00001-of-00001.safetensors")
        self.load(place)

    def damage(self, draw, path):
        raw = path.read_bytes()
        if path.suffix == ".json" and draw.random() < 0.6:
            try:
                path.write_bytes(as_json(broken_value(draw, json.loads(raw))))
                return
            except (ValueError, RecursionError):
                pass
        path.write_bytes(broken_bytes(draw, raw, head=2000 if path.suffix != ".json" else None))

    def load(self, place):
        from agent_finetune import models, plugins
        from agent_finetune.config import ModelConfig
        from agent_finetune.render import Renderer

        config = ModelConfig(model=str(place), device="cpu", dtype="float32")
        models.context_length(config, self.settings)
        loaded = plugins.load_model(config, self.settings)
        Renderer(loaded.tokenizer)
        models.loaded_context(loaded)

    places = ("template", "turn")


class Gguf(Model):
    """GGUF files: headers that lie, and weights that are not there."""

    def __init__(self, folder):
        from tiny_gguf import write_gguf

        from agent_finetune.testing import tiny_model, tiny_tokenizer

        Kind.__init__(self, folder)
        tokenizer = tiny_tokenizer()
        self.raw = write_gguf(folder / "m.gguf", tiny_model(tokenizer), tokenizer).read_bytes()

    def __call__(self, draw, room):
        head = draw.choice((40, 600, self.raw.find(b"blk.0"), self.raw.find(b"blk.1") + 2000))
        path = room / "m.gguf"
        path.write_bytes(broken_bytes(draw, self.raw, head=head))
        self.load(path)


class Adapter(Model):
    """Adapters: what PEFT wrote, as a live engine and as a run open it."""

    often = ("adapter_config.json", "adapter_model.safetensors") * 3
    places = (*Model.places, "model '")  # the base that it names

    def __init__(self, folder):
        import peft

        from agent_finetune.testing import save_tiny_model, tiny_model, tiny_tokenizer

        Kind.__init__(self, folder)
        self.base = save_tiny_model(folder / "base")
        self.model = tiny_model(tiny_tokenizer())
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        with warnings.catch_warnings(action="ignore"):
            made = peft.get_peft_model(tiny_model(tiny_tokenizer()), lora)
            made.peft_config["default"].base_model_name_or_path = str(self.base)
            made.save_pretrained(folder / "specimen", save_embedding_layers=False)
        tiny_tokenizer().save_pretrained(folder / "specimen")
        self.folder = folder / "specimen"
        (self.folder / "README.md").unlink()
        self.files = [path.name for path in self.folder.iterdir()]

    def load(self, place):
        import torch

        from agent_finetune import adapters
        from agent_finetune.config import ModelConfig
        from agent_finetune.engine.lora_files import open_adapter

        if int(place.parent.name) % 2:
            with open_adapter(place, self.model) as file:
                for target in file.targets:
                    file.matrices(target, torch.float32)
        else:
            config = ModelConfig(model=str(place), device="cpu", dtype="float32")
            adapters.open_model(config, self.settings)
