"""Feedback is put to the generation that it judges, and to nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_finetune.contracts import Exchange, Request, Result, Usage
from agent_finetune.errors import DataError
from agent_finetune.feedback import About, Pair, Thumb, align, read_feedback
from agent_finetune.feedback.finding import Log
from agent_finetune.records import Generation, Message, Preference, ToolCall

SYSTEM = Message(role="system", text="Be kind.")
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALL = Message(role="assistant", tool_calls=(ToolCall(name="look", arguments={"at": "sky"}),))
OTHER_CALL = Message(role="assistant", tool_calls=(ToolCall(name="look", arguments={"at": "sea"}),))
RESULT = Message(role="tool", text="SECRET-42")


def user(text):
    return Message(role="user", text=text)


def said(text, **more):
    return Message(role="assistant", text=text, **more)


def exchange(id, prompt, answer, tools=(TOOL,), **request):
    """What was asked, a text or messages, and what the model answered, with its ids."""
    messages = (SYSTEM, user(prompt)) if isinstance(prompt, str) else tuple(prompt)
    message = said(answer) if isinstance(answer, str) else answer
    ids = Generation(prompt_ids=(1,), ids=tuple(map(ord, id)))
    message = Message(
        role="assistant", text=message.text, tool_calls=message.tool_calls, generation=ids
    )
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    result = Result(id=id, message=message, finish="stop", revision="r", usage=usage)
    return Exchange(
        request=Request(messages=messages, tools=tools, **request), result=result, time=0.0
    )


LOG = (
    exchange("g0", "Capital of France?", "Lyon."),
    exchange("g1", "Capital of Spain?", "Madrid."),
    exchange("g2", "Sky?", CALL),
)


def learn(*items, **how):
    return align(read_feedback(list(items)), **how)


def refusal(*items, **how):
    with pytest.raises(DataError) as caught:
        learn(*items, **how)
    return str(caught.value)


def exact(id):
    return next(e.result.message for e in LOG if e.result.id == id)


FRANCE = (SYSTEM, user("Capital of France?"))


@pytest.mark.parametrize(
    "item",
    [
        {"id": "g0", "correction": "Paris."},
        {"id": "g0", "chosen": "Paris.", "rejected": "Lyon."},
        ("Paris.", " Lyon.\n"),
        {"turn": 2, "correction": "Paris."},
        {"turn": -3, "correction": "Paris."},
    ],
)
def test_a_pair_has_the_exact_prompt_tools_and_ids_of_the_log(item):
    thread = (*FRANCE, said("Lyon."), user("And?"), said("Bye."))
    learning = learn(item, log=LOG, thread=thread)
    (pair,) = learning.preferences
    assert (pair.prompt, pair.tools, pair.id) == (FRANCE, (TOOL,), "g0")
    assert pair.chosen == said("Paris.")
    assert pair.rejected is exact("g0")
    assert learning.prompt_source == {"log": 1}


def test_an_id_goes_before_words():
    learning = learn({"id": "g1", "chosen": "Paris.", "rejected": "Lyon."}, log=LOG)
    (pair,) = learning.preferences
    assert pair.prompt[-1].text == "Capital of Spain?"
    assert pair.rejected == said("Lyon.")


def test_a_given_prompt_goes_before_an_id():
    item = {"id": "g1", "prompt": "Mine?", "chosen": "Paris.", "rejected": "Lyon."}
    learning = learn(item, log=LOG)
    assert learning.preferences[0].prompt == (user("Mine?"),)
    assert learning.prompt_source == {"given": 1}


def test_an_answer_to_a_given_prompt_keeps_its_ids_when_the_model_gave_it_there():
    pair = Preference(prompt=FRANCE, tools=(TOOL,), chosen=said("Paris."), rejected=said("Lyon."))
    assert learn(pair, log=LOG).preferences[0].rejected == exact("g0")
    bare = {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."}
    assert learn(bare, log=LOG).preferences[0].rejected.generation is None


def test_the_rejected_answer_is_looked_for_before_the_chosen():
    learning = learn(("Madrid.", "Lyon."), log=LOG)
    assert learning.preferences[0].prompt == FRANCE
    learning = learn(("Madrid.", "Lisbon."), log=LOG)
    assert learning.preferences[0].prompt[-1].text == "Capital of Spain?"
    assert learning.preferences[0].chosen is exact("g1")


def test_a_call_is_found_by_its_name_and_arguments():
    (pair,) = learn((said("Blue."), CALL), log=LOG).preferences
    assert pair.rejected is exact("g2")
    assert "which answer" in refusal((said("Blue."), OTHER_CALL), ("Paris.", "Lyon."), log=LOG)


def test_an_id_that_nobody_knows_is_refused():
    assert refusal({"id": "g9", "label": True}, log=LOG) == (
        "feedback[0]: no generation with the id 'g9' in the log"
    )


def test_a_single_item_about_nothing_is_about_the_last_answer():
    (pair,) = learn(("Paris.", "Rome."), log=LOG[:1]).preferences
    assert (pair.prompt, pair.rejected) == (FRANCE, said("Rome."))
    thread = (user("Hi"), said("Yo."), user("Bye"), said("Human words.", trained=False))
    (pair,) = learn({"correction": "Hello."}, log=LOG, thread=thread).preferences
    assert (pair.prompt, pair.rejected) == (thread[:1], said("Yo."))
    (verdict,) = learn({"feedback": "down"}, log=LOG[:2]).verdicts
    assert verdict.completion is exact("g1")
    (example,) = learn("Paris.", log=LOG[:1]).demonstrations
    assert example.messages == (*FRANCE, said("Paris."))


def test_of_several_items_none_is_about_the_last_answer():
    message = refusal(("Paris.", "Lyon."), ("Good.", "Bad."), log=LOG)
    assert message == (
        "feedback[1]: which answer it is about is not said; give an id, a turn or a prompt"
    )


def test_a_judged_answer_that_was_never_said_is_refused():
    message = refusal({"completion": "Rome.", "label": False}, log=LOG)
    assert message.startswith("feedback[0]: what it judges was not said")


def test_a_prompt_without_the_answer_that_is_judged_is_refused():
    about = About(index=0, source="mine", prompt=FRANCE)
    for shape in (
        Thumb(about=about, good=True, answer=None),
        Pair(about=about, chosen=(said("Paris."),), rejected=None),
    ):
        with pytest.raises(DataError, match="mine: has a prompt, and not the answer to it"):
            align([shape], LOG)


def test_nothing_said_is_nothing_to_judge():
    assert "nothing was generated" in refusal({"label": True})
    assert "nothing was generated" in refusal({"label": True}, log=LOG, thread=(user("Hi"),))


def test_the_same_words_after_two_prompts_are_ambiguous():
    log = (*LOG, exchange("g3", "Second city of France?", "Lyon."))
    message = refusal({"id": "g1", "label": True}, ("Paris.", "Lyon."), log=log)
    assert message == ("feedback[1]: 'Lyon.' answers 2 different prompts (log: g0, g3); give an id")


def test_an_ambiguous_call_is_named_by_the_functions_it_calls():
    log = (*LOG, exchange("g3", "Sea?", CALL))
    message = refusal((said("Blue."), CALL), log=log)
    assert message.startswith("feedback[0]: a call of look answers 2 different prompts")


def test_the_last_of_equal_answers_to_one_prompt_is_meant():
    log = (*LOG, exchange("g3", "Capital of France?", "Lyon."))
    assert learn(("Paris.", "Lyon."), log=log).preferences[0].id == "g3"


def test_the_thread_tells_two_conversations_apart():
    log = (*LOG, exchange("g3", "Second city of France?", "Lyon."))
    thread = (user("Capital of France?"), said("Lyon."))
    learning = learn(("Paris.", "Lyon."), log=log, thread=thread)
    assert (learning.preferences[0].id, learning.prompt_source) == ("g0", {"log": 1})


def test_another_conversations_prompt_is_never_taken_for_the_threads():
    thread = (user("Biggest?"), said("No."), user("Second city of France?"), said("Lyon."))
    learning = learn(("Paris.", "Lyon."), log=LOG, thread=thread, tools=[TOOL])
    (pair,) = learning.preferences
    assert (pair.prompt, pair.tools, pair.rejected) == (thread[:3], (TOOL,), said("Lyon."))
    assert learning.prompt_source == {"thread": 1}


def test_a_prompt_to_which_a_host_added_words_is_still_the_threads():
    asked = "Capital of France?\n# Memories\nUser likes maps."
    thread = (user("Capital of France?"), said("Lyon."))
    learning = learn(("Paris.", "Lyon."), log=[exchange("m", asked, "Lyon.")], thread=thread)
    assert learning.preferences[0].prompt[-1].text == asked


def test_a_prompt_that_a_host_shortened_is_still_the_threads():
    turns = [user("a"), said("b"), user("c"), said("d"), user("e")]
    for kept, where in ((3, "log"), (1, "thread")):
        log = [exchange("m", [SYSTEM, *turns[-kept:]], "Lyon.")]
        learning = learn(("Paris.", "Lyon."), log=log, thread=(*turns, said("Lyon.")))
        assert learning.prompt_source == {where: 1}


def test_the_same_words_at_two_turns_of_the_thread_are_ambiguous():
    thread = (user("a"), said("Ok."), user("b"), said("Ok."))
    assert refusal(("Fine.", "Ok."), thread=thread) == (
        "feedback[0]: 'Ok.' was said at the turns 1, 3 of the thread; give an id or a turn"
    )
    (pair,) = learn({"turn": 3, "correction": "Fine."}, thread=thread).preferences
    assert pair.prompt == thread[:3]


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (7, "turn is 7; the thread has 4 turns"),
        (0, "turn 0 is of 'assistant', and the model did not say it"),
        (2, "turn 2 is of 'user', and the model did not say it"),
        (1, "turn 1 begins"),
    ],
)
def test_only_turns_that_the_model_said_can_be_judged(turn, why):
    thread = (said("Kick-off.", trained=False), said("Ok."), user("b"), said("Yes."))
    if turn == 1:
        thread, turn = thread[1:], 0
    assert refusal({"turn": turn, "label": True}, thread=thread).startswith(
        f"feedback[0]: {why.replace('turn 1', 'turn 0')}"
    )


def test_what_the_log_has_forgotten_is_found_on_disk():
    disk = Log(LOG)
    for item in ({"id": "g0", "label": True}, {"completion": "Lyon.", "label": True}):
        learning = learn(item, log=LOG[1:], more=disk)
        assert learning.verdicts[0].completion is exact("g0")
        assert learning.prompt_source == {"disk": 1}
    assert "in the log or disk" in refusal({"id": "g9", "label": True}, log=LOG, more=disk)


@pytest.mark.parametrize("heard", ["Lyon.", "Lyon. TERMINATE", " Lyon.  "])
@pytest.mark.parametrize("spoken", ["Lyon.", "Lyon. TERMINATE", "TERMINATE\n\nLyon."])
def test_a_word_that_hosts_take_away_does_not_hide_an_answer(heard, spoken):
    log = [exchange("t", "Capital of France?", spoken)]
    for how in ({"log": log}, {"more": Log(log)}, {"thread": (user("q"), said(spoken))}):
        (pair,) = learn(("Paris.", heard), ignoring=["TERMINATE"], **how).preferences
        assert pair.rejected.text == spoken


def test_a_word_taken_from_the_middle_does_not_hide_an_answer():
    log = [exchange("t", "Capital of France?", "It is TERMINATE Lyon.")]
    items = (("Paris.", "It is  Lyon."), {"id": "t", "label": False})
    assert learn(*items, log=log, ignoring=["TERMINATE"]).preferences[0].id == "t"


def test_a_correction_that_only_lost_a_word_is_refused_and_one_that_adds_it_is_not():
    log = [exchange("t", "q", "Paris. TERMINATE"), exchange("u", "r", "Rome.")]
    ignoring = ["TERMINATE"]
    message = refusal({"id": "t", "correction": "Paris."}, log=log, ignoring=ignoring)
    assert message.endswith("the same but for words that do not count")
    learning = learn({"id": "u", "correction": "Rome. TERMINATE"}, log=log, ignoring=ignoring)
    assert len(learning) == 1


def test_a_correction_that_changes_nothing_is_refused():
    message = refusal({"id": "g0", "correction": "Lyon. "}, log=LOG)
    assert message == "feedback[0]: chosen and rejected are the same; there is nothing to prefer"


def test_tools_that_were_withheld_were_not_offered():
    log = [exchange("n", "q", "a", tool_choice="none")]
    assert learn({"id": "n", "label": True}, log=log).verdicts[0].tools == ()


def test_unusable_items_may_be_dropped_with_their_place_and_reason():
    items = [("a", "a"), {"id": "g9", "label": True}, {"id": "g0", "label": True}]
    shapes = read_feedback(items, on_bad="skip")
    learning = align(shapes, log=LOG, on_bad="skip")
    assert [bad.source for bad in learning.dropped] == ["feedback[0]", "feedback[1]"]
    assert len(learning) == 1


class TestRewards:
    """Several answers to one prompt are ranked; one alone is held against a threshold."""

    def test_a_lone_reward_needs_a_threshold(self):
        assert "give a threshold" in refusal({"id": "g0", "reward": 0.7}, log=LOG)

    @pytest.mark.parametrize(("reward", "good"), [(0.5, True), (0.49, False)])
    def test_a_lone_reward_is_good_from_the_threshold_on(self, reward, good):
        learning = learn({"id": "g0", "reward": reward}, log=LOG, threshold=0.5)
        assert [v.good for v in learning.verdicts] == [good]
        assert learning.prompt_source == {"log": 1}

    def test_the_best_answer_is_preferred_to_each_worse_one(self):
        items = [
            {"prompt": "q", "completion": text, "reward": reward}
            for text, reward in (("c", 0.1), ("a", 0.9), ("b", 0.5), ("d", 0.9), ("a", 0.2))
        ]
        learning = learn(*items, {"prompt": "r", "completion": "z", "reward": 1}, threshold=0.5)
        pairs = [(p.chosen.text, p.rejected.text) for p in learning.preferences]
        assert pairs == [("a", "c"), ("a", "b")]
        assert [v.completion.text for v in learning.verdicts] == ["z"]
        assert [bad.source for bad in learning.dropped] == ["feedback[3]", "feedback[4]"]
        assert learning.prompt_source == {"given": 4}

    def test_equal_rewards_rank_nothing(self):
        items = [{"prompt": "q", "completion": text, "reward": 1} for text in "ab"]
        assert [v.good for v in learn(*items, threshold=0.5).verdicts] == [True, True]

    def test_a_trace_that_cannot_be_cut_is_refused_with_its_index(self):
        traces = [
            [CALL, RESULT, said("Blue.")],
            [CALL, Message(role="tool", text="9"), said("Red.")],
        ]
        items = [
            {"prompt": "q", "completion": trace, "reward": i} for i, trace in enumerate(traces)
        ]
        assert refusal(*items).startswith("feedback[0]: chosen and rejected differ first at")


class TestTraces:
    """A completion holds only what the model said, however many turns were written down."""

    CHOSEN = (CALL, RESULT, said("It is blue."))
    REJECTED = (OTHER_CALL, Message(role="tool", text="SECRET-43"), said("Wet."))

    def pair(self, chosen, rejected):
        return {"prompt": "Sky?", "chosen": list(chosen), "rejected": list(rejected)}

    def test_the_pair_is_made_where_the_traces_part(self):
        learning = learn(self.pair(self.CHOSEN, (*self.CHOSEN[:2], said("Wet."), user("?"))))
        (pair,) = learning.preferences
        assert pair.prompt == (user("Sky?"), CALL, RESULT)
        assert (pair.chosen, pair.rejected) == (said("It is blue."), said("Wet."))
        assert (learning.demonstrations, learning.dropped_turns) == ((), 0)

    def test_later_turns_are_shown_of_the_chosen_and_dropped_of_the_rejected(self):
        learning = learn(self.pair((*self.CHOSEN, user("Thanks")), self.REJECTED))
        (pair,) = learning.preferences
        assert (pair.prompt, pair.chosen, pair.rejected) == ((user("Sky?"),), CALL, OTHER_CALL)
        (example,) = learning.demonstrations
        assert [m.text for m in example.messages] == ["Sky?", "", "SECRET-42", "It is blue."]
        trained = [m for m in example.messages if m.role == "assistant" and m.trained]
        assert trained == [said("It is blue.")]
        assert learning.dropped_turns == 1

    def test_a_good_trace_is_good_at_every_turn_and_a_bad_one_at_no_certain_turn(self):
        item = {"prompt": "Sky?", "completion": list(self.CHOSEN), "label": True}
        verdicts = learn(item).verdicts
        assert [(len(v.prompt), v.completion) for v in verdicts] == [
            (1, CALL),
            (3, said("It is blue.")),
        ]
        assert "which of its 2 turns is bad" in refusal({**item, "label": False})

    @pytest.mark.parametrize(
        ("rejected", "why"),
        [
            (CHOSEN[:1], "chosen goes on where the other ends"),
            ((*CHOSEN, user("?")), "rejected goes on where the other ends"),
            ((CALL, REJECTED[1], said("Wet.")), "differ first at their turn 1, 'tool' and 'tool'"),
            ((*CHOSEN[:2], user("?")), "differ first at their turn 2, 'assistant' and 'user'"),
        ],
    )
    def test_traces_that_do_not_part_at_the_models_words_are_refused(self, rejected, why):
        assert why in refusal(self.pair(self.CHOSEN, rejected))

    def test_empty_answers_can_be_rejected_but_not_be_good(self):
        assert learn(self.pair([said("Blue.")], [said("")])).preferences[0].rejected.text == ""
        item = {"prompt": "q", "completion": ""}
        assert learn({**item, "label": False}).verdicts[0].completion == said("")
        assert "teaches nothing" in refusal({**item, "label": True})
        assert "says nothing where the two part" in refusal(
            self.pair([said(""), RESULT, said("Blue.")], [CALL])
        )

    def test_turns_of_a_trace_keep_their_ids_when_the_model_said_them_there(self):
        prompt = (user("Sky?"), CALL, RESULT)
        log = [exchange("w", prompt, "Wet.", tools=()), exchange("b", prompt, "It is blue.", ())]
        rejected = (*self.CHOSEN[:2], said("Wet."))
        (pair,) = learn(self.pair(self.CHOSEN, rejected), log=log).preferences
        assert pair.rejected.generation == log[0].result.message.generation
        assert pair.chosen.generation == log[1].result.message.generation


WORDS = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=4)
TURNS = st.lists(
    st.one_of(
        WORDS.map(said),
        WORDS.map(lambda text: Message(role="tool", text=f"result {text}")),
        WORDS.map(user),
    ),
    max_size=4,
)


@st.composite
def an_item(draw):
    prompt = draw(WORDS)
    kind = draw(st.sampled_from(["pair", "judged", "shown"]))
    first = draw(WORDS)
    if kind == "pair":
        second = draw(WORDS.filter(lambda word: word != first))
        shared = draw(TURNS)
        return {
            "prompt": prompt,
            "chosen": [said("go"), *shared, said(first), *draw(TURNS)],
            "rejected": [said("go"), *shared, said(second), *draw(TURNS)],
        }
    more = {"label": draw(st.booleans())} if kind == "judged" else {}
    return {"prompt": prompt, "completion": first, **more}


def said_in(messages):
    return [m.text for m in messages if m.role == "assistant"]


@given(st.lists(an_item(), max_size=4).filter(lambda items: items))
def test_with_given_prompts_nothing_is_lost_and_nothing_is_invented(items):
    learning = learn(*items)
    pairs, verdicts = list(learning.preferences), list(learning.verdicts)
    examples = {example.source: example for example in learning.demonstrations}
    dropped = 0
    for index, item in enumerate(items):
        source, prompt = f"feedback[{index}]", user(item["prompt"])
        if "chosen" in item:
            pair = pairs.pop(0)
            later = examples.pop(source, None)
            whole = later.messages if later else (*pair.prompt, pair.chosen)
            assert said_in(whole) == said_in(item["chosen"])
            assert tuple(m.text for m in whole) == tuple(
                m.text for m in (prompt, *item["chosen"])[: len(whole)]
            )
            before = said_in(pair.prompt)
            assert said_in(item["rejected"])[: len(before) + 1] == [*before, pair.rejected.text]
            dropped += len(said_in(item["rejected"])) - len(before) - 1
            assert not any("result" in m.text for m in (pair.chosen, pair.rejected))
        elif "label" in item:
            verdict = verdicts.pop(0)
            assert (verdict.prompt, verdict.good) == ((prompt,), item["label"])
            assert verdict.completion == said(item["completion"])
        else:
            assert examples.pop(source).messages == (prompt, said(item["completion"]))
    assert not pairs
    assert not verdicts
    assert not examples
    assert (learning.dropped, learning.dropped_turns) == ((), dropped)
    assert learning.prompt_source == {"given": len(items)}


@given(st.lists(an_item(), max_size=4))
def test_no_result_of_a_tool_is_ever_in_a_completion(items):
    learning = learn(*items)
    completions = [
        *(m for pair in learning.preferences for m in (pair.chosen, pair.rejected)),
        *(verdict.completion for verdict in learning.verdicts),
    ]
    assert all(m.role == "assistant" and "result" not in m.text for m in completions)
    trained = [m for e in learning.demonstrations for m in e.messages if m.trained]
    assert all("result" not in m.text for m in trained if m.role == "assistant")
