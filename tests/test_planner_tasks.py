"""The invented world, and the tasks over it: plans that parse, answers that are true."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from itertools import combinations

import pytest

from s3lora.errors import ParameterError
from s3lora.lab.planner import names
from s3lora.lab.planner.grammar import TOOLS, parse, substitute
from s3lora.lab.planner.tasks import SYSTEM, TEMPLATES, collection, make_pairs, make_tasks
from s3lora.lab.planner.templates import century
from s3lora.lab.planner.world import make_world

SEED = 5
SUMS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
HALVES = (
    names.GIVEN, names.SURNAME, names.TOWN, names.RIVER, names.REGION, names.MOUNTAIN, names.HOUSE,
    names.TITLE, names.STAND_IN,
)  # fmt: skip


@pytest.fixture(scope="module", params=names.PARTS)
def part(request):
    return request.param


@pytest.fixture(scope="module")
def tasks(part):
    return make_tasks(1000, SEED, part)


@pytest.fixture(scope="module")
def pairs(part):
    return make_pairs(300, SEED, part)


def calculate(text: str) -> int:
    """The value of a sum of whole numbers."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return SUMS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant), text
        return node.value

    return value(ast.parse(text, mode="eval").body)


def facts(world) -> dict[str, str]:
    """The answer to every search, by its query: written down here a second time."""
    known = {}
    for person in world.people:
        known[f"birthplace of {person}"] = person.birthplace
        known[f"birth year of {person}"] = person.born
    for work in world.works:
        known[f"{work.kind.maker} of the {work.kind} {work}"] = work.maker
        known[f"{work.kind} by {work.maker}"] = work
        known[f"year the {work.kind} {work} was finished"] = work.year
        known[f"where the original of the {work.kind} {work} is kept"] = work.keeper
    for house in world.institutions:
        for name in (house.name, f"the {house}"):
            known[f"founder of {name}"] = house.founder
            known[f"founding year of {name}"] = house.founded
            known[f"town of {name}"] = house.town
    for town in world.towns:
        known[f"population of {town}"] = town.population
        known[f"region of {town}"] = town.region
        known[f"river through {town}"] = town.river
    for river in world.rivers:
        known[f"length of {river}"] = known[f"length of the {river}"] = river.length
    for region in world.regions:
        known[f"highest mountain in {region}"] = region.mountain
        known[f"height of {region.mountain}"] = region.mountain.height
    return {query: str(answer) for query, answer in known.items()}


def judge(text: str) -> str:
    """The answer of a flawless model to the questions that plans put to it."""
    if found := re.fullmatch(r"Which comes first in the alphabet: (.*), (.*) or (.*)\?", text):
        return min(found.groups())
    if found := re.fullmatch(r"In which century is the year (\d+)\?", text):
        return f"{-(-int(found[1]) // 100)}th century"
    if found := re.fullmatch(r"(.*) was (?:born|founded) in (\d+) and (.*) in (\d+)\. .*", text):
        first = found[1] if int(found[2]) < int(found[4]) else found[3]
        return first.removeprefix("the ")
    if found := re.fullmatch(r"Are (.*) and (.*) the same \w+\?", text):
        return "yes" if found[1] == found[2] else "no"
    if found := re.fullmatch(r"Is the year (\d+) before the year (\d+)\?", text):
        return "yes" if int(found[1]) < int(found[2]) else "no"
    found = re.fullmatch(r"Is (\d+) kilometres more than (\d+) kilometres\?", text)
    assert found, text
    return "yes" if int(found[1]) > int(found[2]) else "no"


def carried_out(plan: str, known: dict[str, str]) -> str:
    """The result of the last step."""
    evidence: dict[int, str] = {}
    run = {"Search": known.__getitem__, "Calculator": lambda t: str(calculate(t)), "LLM": judge}
    for step in parse(plan).steps:
        evidence[step.id] = run[step.tool](substitute(step.input, evidence))
    return evidence[len(evidence)]


def test_every_gold_plan_can_be_run_with_the_declared_tools_and_hops(tasks, pairs):
    for task in tasks + [task for task in pairs if task.kind == "harmless"]:
        plan = parse(task.plan)
        assert plan.faults == (), task
        assert tuple(step.tool for step in plan.steps) == task.tools, task
        assert len(plan.steps) == task.hops, task


def test_carrying_out_the_plan_gives_the_answer(tasks, pairs, part):
    known = facts(make_world(part, SEED))
    for task in tasks + [task for task in pairs if task.kind == "harmless"]:
        assert carried_out(task.plan, known) == task.answer, task


def test_every_step_counts(tasks):
    for task in tasks:
        plan = parse(task.plan)
        used = {each for step in plan.steps for each in re.findall(r"#E\d+", step.input)}
        assert used == {step.placeholder for step in plan.steps[:-1]}, task


def test_templates_are_many_and_all_of_them_are_used(part):
    assert sum(map(len, TEMPLATES.values())) >= 25
    for hops, templates in TEMPLATES.items():
        tasks = make_tasks(3 * len(templates), SEED, part, hops=(hops,))
        assert {task.hops for task in tasks} == {hops}
        shapes = {re.sub(r"[A-Z][a-z]+|\d+", "", task.plan.split("\n")[-1]) for task in tasks}
        assert len(shapes) >= 3


def test_hops_tools_and_judgements_are_mixed(tasks):
    hops = Counter(task.hops for task in tasks)
    assert min(hops.values()) > 0.2 * len(tasks)
    assert {tool for task in tasks for tool in task.tools} == set(TOOLS)
    answers = Counter(task.answer for task in tasks)
    assert 0.5 < answers["yes"] / answers["no"] < 2


@pytest.mark.parametrize("make", [make_tasks, make_pairs])
def test_the_seed_decides(make, part):
    make_world.cache_clear()
    first = make(50, 3, part)
    make_world.cache_clear()
    assert make(50, 3, part) == first
    assert make(50, 4, part) != first


def test_the_tasks_of_a_seed_are_known():
    task = make_tasks(10, 7)[0]
    again = make_tasks(10, seed=7, part="train")[0]
    assert task == again
    assert (task.kind, task.pair, task.part, task.category) == ("harmless", None, "train", None)


def test_a_few_thousand_questions_are_distinct(part):
    tasks = make_tasks(4000, SEED, part)
    assert len({task.question for task in tasks}) == 4000


def test_more_questions_than_the_world_has_are_refused(part, monkeypatch):
    heights = [each for each in TEMPLATES[2] if each.paths == ("region.mountain",)]
    monkeypatch.setitem(TEMPLATES, 2, tuple(heights))
    assert len(make_tasks(30, SEED, part, hops=(2,))) == 30
    with pytest.raises(ParameterError, match=f"the {part} world is too small for 60 distinct"):
        make_tasks(60, SEED, part, hops=(2,))


@pytest.mark.parametrize("hops", [(0,), (5,), ()])
def test_other_hops_are_refused(hops):
    with pytest.raises(ParameterError):
        make_tasks(1, 0, hops=hops)


@pytest.mark.parametrize("make", [make_tasks, make_pairs])
def test_another_part_is_refused(make):
    with pytest.raises(ParameterError, match="held-out"):
        make(1, 0, "held-out")


@pytest.mark.parametrize("halves", HALVES)
def test_the_pools_of_the_parts_share_no_name(halves):
    train, test = (names.pool(halves, part) for part in names.PARTS)
    assert len(set(train + test)) == len(train + test) == len(halves[0]) * len(halves[1])


@pytest.mark.parametrize(("seed", "other"), [(0, 0), (0, 1), (7, 11)])
def test_the_parts_share_no_entity_whatever_the_seeds(seed, other):
    train = [entity.name for entity in make_world("train", seed).entities()]
    test = [entity.name for entity in make_world("test", other).entities()]
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)
    assert not set(train) & set(test)
    people = [
        {person.name.split()[1] for person in make_world(part, at).people}
        for part, at in (("train", seed), ("test", other))
    ]
    assert not people[0] & people[1]


def test_no_name_of_one_part_stands_in_a_question_of_the_other():
    entities = {entity.name for entity in make_world("train", SEED).entities()}
    for task in make_tasks(500, SEED, "test") + make_pairs(100, SEED, "test"):
        words = re.findall(r"\w+", task.question)
        phrases = {" ".join(words[i:j]) for i, j in combinations(range(len(words) + 1), 2)}
        assert not phrases & entities, task
        assert not set(task.entities) & entities, task


def test_the_parts_share_no_question_and_no_entity_of_a_task():
    train, test = make_tasks(2000, SEED), make_tasks(2000, SEED, "test")
    assert not {task.question for task in train} & {task.question for task in test}
    shared = {name for task in train for name in task.entities} & {
        name for task in test for name in task.entities
    }
    assert not shared


def test_entities_are_those_of_question_and_answer(tasks, part):
    known = {entity.name for entity in make_world(part, SEED).entities()}
    any_name = re.compile(rf"\b(?:{'|'.join(map(re.escape, known))})\b")
    for task in tasks:
        assert set(task.entities) <= known, task
        assert set(any_name.findall(task.question)) <= set(task.entities), task
        assert task.answer not in known or task.answer in task.entities, task


def test_the_collection_has_one_article_for_each_entity(part):
    world = make_world(part, SEED)
    articles = collection(part, SEED)
    assert [article.title for article in articles] == [each.name for each in world.entities()]
    assert articles == collection(part, SEED)
    for article in articles:
        assert article.title in article.text
        assert not re.search(r"[{}<>]|\bNone\b", article.text)


def test_facts_are_worded_in_several_ways(part):
    texts = [
        article.text.replace(article.title, "X")
        for article in collection(part, SEED)
        if article.title.startswith("River ")
    ]
    assert len({re.sub(r"\d+", "9", text) for text in texts}) == 3


def test_every_looked_up_answer_stands_in_the_article_about_its_subject(tasks, part):
    articles = {article.title: article.text for article in collection(part, SEED)}
    known = facts(make_world(part, SEED))
    for task in tasks:
        evidence: dict[int, str] = {}
        for step in parse(task.plan).steps:
            query = substitute(step.input, evidence)
            if step.tool == "Search":
                evidence[step.id] = known[query]
                subjects = [title for title in articles if query.find(title) >= 0]
                assert any(known[query] in articles[title] for title in subjects), task
            elif step.tool == "Calculator":
                evidence[step.id] = str(calculate(query))
            else:
                evidence[step.id] = judge(query)


def test_the_system_prompt_names_the_tools_and_the_form():
    assert all(f"{tool}[" in SYSTEM for tool in TOOLS)
    assert "#E1 = " in SYSTEM
    assert len(SYSTEM.split("\n")) <= 2


@pytest.mark.parametrize(
    ("year", "name"),
    [
        (1600, "16th"),
        (1601, "17th"),
        (1900, "19th"),
        (1901, "20th"),
        (2001, "21st"),
        (1100, "11th"),
    ],
)
def test_a_century_ends_with_its_hundredth_year(year, name):
    assert century(year) == f"{name} century"
