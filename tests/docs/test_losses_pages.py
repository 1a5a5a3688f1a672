"""The pages about losses name every loss once, call it as it is called, and say of its cost what torch counts."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from markdown.extensions.toc import slugify
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from xmodal.adapters.encoder import Encoder
from xmodal.losses import LOSSES
from xmodal.losses.state import Fusion
from xmodal.objective import Objective, check_terms
from xmodal.objective.layout import width_name
from xmodal.recipe import Term
from xmodal.recipes.loading import RECIPES

DOCS = Path(__file__).resolve().parents[2] / "docs"
FAMILIES = sorted(DOCS.glob("losses-*.md"))
PAGES = [DOCS / "losses.md", *FAMILIES, DOCS / "choosing.md"]
NAMES = sorted(name for name in LOSSES if LOSSES[name].function.__module__.startswith("xmodal.losses."))
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def headings(page):
    return HEADING.findall(CODE.sub("", page.read_text()))


def section(name):
    (page,) = (page for page in FAMILIES if name in headings(page))
    return re.split(r"^## ", page.read_text().split(f"\n## {name}\n")[1], flags=re.MULTILINE)[0]


def rows(page, title):
    """Of the first table under a heading: the first cell's name → all cells."""
    table = re.split(r"^## ", page.read_text().split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    named = [(re.match(r"\[?`(\w+)`", cells[0]), cells) for cells in lines]
    return {found[1]: cells for found, cells in named if found}


def terms(page):
    """Every term of a page, in fences of YAML and in code spans, by the block that it stands in."""
    text = page.read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"`(\{loss: [^`]*\})`", CODE.sub("", text))
    for block in blocks:
        given = yaml.safe_load(block)
        given = given.get("objective", [given]) if isinstance(given, Mapping) else given
        yield [entry for entry in given if isinstance(entry, Mapping) and "loss" in entry]


def teachers_of(given):
    """The teachers that terms mean: those before a colon, and the only one where a tap stands alone on its side."""
    flat = yaml.safe_dump([entry.get("teacher") for entry in given]) + yaml.safe_dump([e["student"] for e in given])
    named = set(re.findall(r"(\w+):(?=[a-z])", flat)) - {"student", "batch"}
    return sorted(named) or (["teacher"] if any("teacher" in entry for entry in given) else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_has_a_section_on_one_page_of_a_family(name):
    assert sum(headings(page).count(name) for page in FAMILIES) == 1


def test_pages_have_no_section_of_a_loss_that_is_gone():
    named = [heading for page in FAMILIES for heading in headings(page) if re.fullmatch(r"[a-z0-9_]+", heading)]
    assert sorted(named) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_section_calls_the_loss_as_its_signature_has_it(name):
    given = re.search(rf"`{name}\((.*?)\)` ", section(name).replace("\n", " "))[1]
    wanted = []
    for parameter in inspect.signature(inspect.unwrap(LOSSES[name].function)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in wanted:
            wanted.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        wanted.append(f"{parameter.name}{default}")
    assert given.split(", ") == wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_overview_links_the_section_and_says_the_kind(name):
    cells = rows(DOCS / "losses.md", "All of them")[name]
    (page,) = (page.name for page in FAMILIES if name in headings(page))
    assert cells[0] == f"[`{name}`]({page}#{name})"
    assert cells[3] == LOSSES[name].kind.replace("_", " ")


@pytest.mark.parametrize("name", NAMES)
def test_the_overview_says_whether_widths_may_differ(name):
    said = rows(DOCS / "losses.md", "All of them")[name][4]
    widths = [width for given in LOSSES[name].inputs if (width := width_name(given)) is not None]
    if said in ("yes", "no", "projected"):
        student = {width_name(given) for given in LOSSES[name].inputs if not given.detached}
        teacher = {width_name(given) for given in LOSSES[name].inputs if given.detached}
        alike = (student & teacher if teacher else {w for w in widths if widths.count(w) > 1}) - {None}
        assert (said == "yes") == (not alike)
    else:
        assert name in ("top_k_kl", "attention_scores", "attention_kl")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_term_could_stand_in_a_recipe(page):
    for given in terms(page):
        if [entry["loss"] for entry in given] == ["label_cross_entropy"]:
            continue  # the page's own example
        _, mistakes = check_terms([Term(**entry) for entry in given], teachers_of(given))
        assert not mistakes, given


SHAPES = {
    "logits": (10,),
    "image.embedding": (12,),
    "text.embedding": (12,),
    "image.features": (12,),
    **{f"image.hidden.{n}": (4 + n, 16 >> n, 16 >> n) for n in range(4)},
    **{f"text.hidden.{n}": (6, 64) for n in range(3)},
    **{f"text.attention.{n}": (4, 6, 6) for n in range(3)},
    "image.tokens": (9, 12),
    "text.logits": (6, 20),
    "text.mask": (6,),
    "text.top_log_probs": (6, 4),
    "text.top_indices": (6, 4),
    "text.top_tail": (6,),
}


class Stand(Encoder):
    """A stand-in for any model: every tap that a page may ask for, of random numbers."""

    modalities = ("image", "text")

    def __init__(self):
        super().__init__()
        self.name, self.factor = "stand-in", torch.nn.Parameter(torch.ones(()))

    def taps(self):
        return tuple(SHAPES)

    def compute(self, inputs, taps):
        return {tap: self.feature(tap, torch.randn(len(inputs["x"]), *SHAPES[tap]) * self.factor) for tap in taps}

    def feature(self, tap, x):
        if tap == "text.mask":
            return torch.arange(6) < torch.tensor([[6], [4], [3], [1]])
        if tap == "text.top_indices":
            return torch.arange(4).expand(x.shape)
        return x.softmax(-1) if "attention" in tap else x

    def identity(self):
        return self.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_term_runs_on_a_batch(page):
    for given in (block for block in terms(page) if block[0]["loss"] in NAMES):
        models = {"student": Stand(), **{name: Stand().freeze() for name in teachers_of(given)}}
        views = {name: {"x": torch.zeros(4, 1)} for name in models}
        fields = {"label": torch.arange(4), "has_text": torch.tensor([1, 1, 0, 1])}
        Objective.build([Term(**entry) for entry in given], models, views, fields=fields)  # refuses what is not finite


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_pages_name_are_there(page):
    assert set(re.findall(r"`(emoji-[\w-]+)`", page.read_text())) <= set(RECIPES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings_that_are_there(page):
    for target, anchor in re.findall(r"\]\(([\w-]*(?:\.md)?)#([^)]+)\)", CODE.sub("", page.read_text())):
        there = {slugify(re.sub(r"[`*]", "", heading), "-") for heading in headings(DOCS / target if target else page)}
        assert anchor in there, f"{target}#{anchor}"


# What a loss costs. Sizes are large where the table's leading terms are to lead.

SIZES = {"B": 768, "D": 16, "D_S": 16, "D_T": 24, "N": 64, "V": 500, "K": 512, "M": 2, "G": 2}
IMAGES = {"B": 16, "C": 32, "P": 64}
TOKENS = {"B": 8, "L": 64, "A": 4, "D_S": 32, "D_T": 64}
TRIPLETS = {"B": 96, "D_S": 16, "D_T": 24}


def inputs_of(name):
    """Random inputs, options, and the sizes by the table's letters."""
    random = torch.randn
    batch, wide, narrow = SIZES["B"], (SIZES["B"], SIZES["D_T"]), (SIZES["B"], SIZES["D_S"])
    items = (SIZES["N"], SIZES["V"])
    scales = {"student_scale": 10.0, "teacher_scale": 10.0}
    biases = {"student_bias": -3.0, "teacher_bias": -3.0}

    def maps():
        return random(IMAGES["B"], IMAGES["C"], 8, 8)

    def heads():
        return random(TOKENS["B"], TOKENS["A"], TOKENS["L"], TOKENS["L"]).softmax(-1)

    def four(teacher):
        return [random(narrow), random(narrow), random(teacher), random(teacher)]

    if name == "decoupled_kd":
        return [random(items), random(items), torch.randint(SIZES["V"], items[:1])], {}, SIZES
    if name == "universal_logit":
        return [random(4, items[0] // 4, items[1]), random(4, items[0] // 4, items[1])], {}, SIZES
    if name == "top_k_kl":
        words = random(items).log_softmax(-1)
        top, indices = words.topk(8)
        tail = words.scatter(-1, indices, -torch.inf).logsumexp(-1)
        return [random(items), top, indices, tail], {"temperature": 1.0}, SIZES
    if LOSSES[name].inputs[0].width == "vocab" or name.startswith("feature_"):
        return [random(items), random(items)], {}, {**SIZES, "D": items[1]}
    if name in ("gram_matrix", "attention_transfer"):
        return [maps(), maps()], {}, IMAGES
    if name == "flow_of_solution":
        return [[maps(), maps()], [maps(), maps()]], {}, IMAGES
    if name in ("attention_scores", "attention_kl"):
        return [heads(), heads()], {}, TOKENS
    if name == "attention_relation":
        states = [random(TOKENS["B"], TOKENS["L"], TOKENS[width]) for width in ("D_S", "D_T")]
        return states, {"num_relation_heads": TOKENS["A"]}, TOKENS
    if name == "rkd_angle":
        return [random(TRIPLETS["B"], TRIPLETS[width]) for width in ("D_S", "D_T")], {}, TRIPLETS
    if name == "contrastive_representation":
        return [random(narrow), random(narrow)], {"bank": random(SIZES["K"], SIZES["D"])}, SIZES
    if name == "graph_propagation":
        return [random(narrow), random(narrow)], {}, SIZES
    if name == "layer_graph":
        layers = range(SIZES["G"] + 1)
        return [[random(narrow) for _ in layers], [random(wide) for _ in layers]], {}, SIZES
    if name == "multimodal_graph":
        half = (batch // 2, SIZES["D_S"]), (batch // 2, SIZES["D_T"])
        return [{key: random(shape) for key in ("image", "text")} for shape in half], {}, {**SIZES, "B": batch // 2}
    if name == "clip_contrastive":
        return [random(narrow), random(narrow)], {"logit_scale": 10.0}, SIZES
    if name == "siglip":
        return [random(narrow), random(narrow)], {"logit_scale": 10.0, "logit_bias": -3.0}, SIZES
    if name == "soft_contrastive":
        return four(wide), scales, SIZES
    if name == "soft_sigmoid":
        return four(wide), {**scales, **biases}, SIZES
    if name == "interactive_contrastive":
        return four(narrow), {"logit_scale": 10.0}, SIZES
    if name == "gradient_matching":
        return four(narrow), scales, SIZES
    if name == "augmented_feature":
        fusions = {f"{side}_fusion": Fusion(SIZES["D_S"], SIZES["D_T"]) for side in ("image", "text")}
        return four(wide), {"logit_scale": 10.0, **fusions}, SIZES
    return [random(narrow), random(wide)], {}, SIZES


def tensors(nested):
    if isinstance(nested, torch.Tensor):
        return [nested]
    return [x for part in (nested.values() if isinstance(nested, Mapping) else nested) for x in tensors(part)]


def cost(name, inputs, options):
    """Operations of the forward pass's products; numbers of 4 bytes that autograd keeps beside the inputs."""
    entry = LOSSES[name]
    for x in tensors(inputs[: entry.num_student]):
        x.requires_grad_()
    given = {x.untyped_storage().data_ptr() for x in tensors(inputs)}
    kept = {}

    def keep(x):
        if x.untyped_storage().data_ptr() not in given:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with FlopCounterMode(display=False) as products, saved_tensors_hooks(keep, lambda x: x):
        inspect.unwrap(entry.function)(*inputs, **options)
    return products.get_total_flops(), sum(storage.nbytes() for storage in kept.values()) / 4


def value_of(cell, sizes):
    """The number that a cell's first formula gives: ``2·B²·(D_S + D_T)``."""
    formula = re.search(r"`([^`]+)`", cell)[1].replace("·", "*").replace("²", "**2").replace("³", "**3")
    return eval(formula, {}, dict(sizes))


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_costs_what_the_table_says(name):
    cells = rows(DOCS / "choosing.md", "What a loss costs")[name]
    inputs, options, sizes = inputs_of(name)
    operations, kept = cost(name, inputs, options)
    wanted = 0 if cells[1].startswith("passes") else value_of(cells[1], sizes)
    assert operations == pytest.approx(wanted, rel=0.05)
    assert kept == pytest.approx(value_of(cells[2], sizes), rel=0.2, abs=sizes.get("N", 0))


@pytest.mark.parametrize("name", [name for name in NAMES if "tile" in LOSSES[name].options])
def test_with_tiles_a_loss_keeps_what_the_page_says(name):
    inputs, options, sizes = inputs_of(name)
    _, kept = cost(name, inputs, {**options, "tile": 64})
    in_one_pass, models = "sig" in name, len(inputs) // 2
    stripe = 64 * models * sizes["B"]  # the logits of the first rows, which the backward pass uses again
    assert kept < 1.1 * (2 * sizes["B"] * sizes["D_S"] if in_one_pass else 4 * models * sizes["B"] + stripe)
