"""ModelScope's hooks in a run of the kernel."""

import pytest
from modelscope_trainers import Watching, conversations, tiny_folder

import modelscope_agent_train as package

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def build(tmp_path, *, rows=4, modify=lambda cfg: cfg, **arguments):
    from modelscope.trainers import build_trainer

    arguments = {
        "model": str(tiny_folder(tmp_path / "model")),
        "train_dataset": conversations(rows),
        "eval_dataset": conversations(2, start=rows),
        "work_dir": str(tmp_path / "run"),
        "efficient_tuners": package.LoRAConfig(rank=2),
        "cfg_modify_fn": modify,
        **arguments,
    }
    return build_trainer("agent-sft", arguments)


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [e.step for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_hooks_are_called_around_each_forward_pass_and_each_evaluation(tmp_path):
    def modify(cfg):
        cfg.train.optimizer.options.cumulative_iters = 2
        return cfg

    hook = Watching()
    trainer = build(tmp_path, modify=modify, callbacks=[hook], max_epochs=2)
    result = trainer.train()
    assert result.steps == 4
    assert hook.of("before_run") == [[8, 2.0]]
    assert hook.of("before_train_iter") == [[place] for place in range(8)]
    assert hook.of("after_train_iter") == [[place] for place in range(8)]
    assert hook.of("before_train_epoch") == hook.of("after_train_epoch") == [[0], [1]]
    assert hook.of("before_val") == [["eval"]] * 3  # at the start, and after each epoch
    assert hook.of("after_val") == [[["agent-ppl", "eval_loss", "loss", "ppl"]]] * 3
    assert hook.of("after_run") == [[8]]
    assert hook.seen[0][0] == "before_run"
    assert hook.seen[-1][0] == "after_run"


def test_a_users_hook_a_tensorboard_hook_and_an_early_stop_act_in_one_run(tmp_path):
    """The rate of learning is so low that nothing gets better."""

    def modify(cfg):
        cfg.train.optimizer.lr = 1e-30
        cfg.train.hooks.append({"type": "TensorboardHook", "interval": 1})
        cfg.train.hooks.append(
            {"type": "EarlyStopHook", "metric_key": "ppl", "rule": "min", "patience": 2}
        )
        return cfg

    hook = Watching()
    trainer = build(tmp_path, rows=2, modify=modify, callbacks=[hook], max_epochs=9)
    result = trainer.train()
    assert result.steps == 6  # the first epoch sets the best, two more do not better it
    assert hook.of("after_train_iter") == [[place] for place in range(6)]
    assert trainer.epoch == 3
    found = scalars(tmp_path / "run" / "tensorboard_output")
    assert found["loss"] == found["lr"] == found["grad_norm"] == [1, 2, 3, 4, 5, 6]
    assert len(found["evaluation/ppl"]) == 3


def test_a_hook_finds_every_attribute_that_is_promised(tmp_path):
    class Asking:
        found = None

        def after_train_iter(self, trainer):
            self.found = {
                "iter": trainer.iter,
                "inner_iter": trainer.inner_iter,
                "iters_per_epoch": trainer.iters_per_epoch,
                "epoch": trainer.epoch,
                "max_iters": trainer.max_iters,
                "max_epochs": trainer.max_epochs,
                "trained": sum(p.requires_grad for p in trainer.model.parameters()) > 0,
                "lr": trainer.optimizer.param_groups[0]["lr"] >= 0,
                "schedule": len(trainer.lr_scheduler.get_last_lr()) > 0,
                "loss": trainer.log_buffer.val_history["loss"][-1] > 0,
                "work_dir": trainer.work_dir,
                "lr_of_cfg": trainer.cfg.train.optimizer.lr,
                "metric_values": trainer.metric_values["ppl"] > 1,
            }
            trainer.logger.info("one iteration")

    hook = Asking()
    build(tmp_path, rows=2, callbacks=hook, max_epochs=1).train()
    assert hook.found == {
        "iter": 1,
        "inner_iter": 1,
        "iters_per_epoch": 2,
        "epoch": 0,
        "max_iters": 2,
        "max_epochs": 1.0,
        "trained": True,
        "lr": True,
        "schedule": True,
        "loss": True,
        "work_dir": str(tmp_path / "run"),
        "lr_of_cfg": 1e-4,
        "metric_values": True,
    }


def test_a_hook_may_stop_the_run_in_the_middle_of_an_epoch(tmp_path):
    class Stopping:
        def after_train_iter(self, trainer):
            trainer._stop_training = trainer.iter == 1

    result = build(tmp_path, callbacks=[Stopping()], max_epochs=3).train()
    assert result.steps == 2


def test_hooks_go_on_from_a_checkpoint_with_what_they_had_kept(tmp_path):
    class Counting(Watching):
        count = 0

        def after_train_iter(self, trainer):
            super().after_train_iter(trainer)
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    build(tmp_path, rows=2, callbacks=[Counting()], max_epochs=1).train()
    hook = Counting()
    trainer = build(tmp_path, rows=2, callbacks=[hook], max_epochs=2)
    trainer.train(str(tmp_path / "run"))
    assert hook.of("after_train_iter") == [[2], [3]]
    assert hook.of("after_train_epoch") == [[1]]
    assert hook.count == 4


def test_hooks_are_called_in_the_order_of_their_priority(tmp_path):
    order = []

    class Named:
        def __init__(self, name, priority):
            self.name = name
            self.PRIORITY = priority

        def before_run(self, trainer):
            order.append(self.name)

    hooks = [Named("last", "LOWEST"), Named("first", 5), Named("normal", 50)]
    build(tmp_path, rows=2, callbacks=hooks, max_epochs=1).train()
    assert order == ["first", "normal", "last"]
