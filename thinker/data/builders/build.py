"""The kinds of records, and the way from files of labels to records of one kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thinker.data.builders import stage1, stage2, stage3, vida
from thinker.data.builders.draft import Draft, Style
from thinker.data.builders.facts import Facts, LevelRule
from thinker.data.builders.media import FileInfo, check_sizes, check_times, missing, probe
from thinker.data.builders.pairs import Pairing, comparison, pair
from thinker.data.builders.rewrite import Rewritten
from thinker.data.builders.sources import Sources, read_facts
from thinker.data.builders.wording import draw_of
from thinker.data.builders.write import Record, check_records, record_of
from thinker.data.paths import media_rules
from thinker.prompts import STALL_FORMS
from thinker.video import VideoError

KINDS = (
    *("distortion", "ugc", "score", "reasoning", "streaming"),
    *(*stage3.KINDS, "pair", "comparison"),
    *vida.ROLES,
)
"""In the order of VQA²'s stages; `distortion` is stage 1, those up to `streaming` are stage 2. Then
the roles of ViDA-UGC."""
NEEDS = {
    "distortion": "--distortions",
    "ugc": "--mos",
    "score": "--mos",
    "reasoning": "--mos and --distortions",
    "streaming": "--mos and --stalls",
    "binary": "--stalls, or --distortions or --depictions with at least two to choose from",
    "multiple-choice": "--distortions, --depictions or --mos, with at least two to choose from",
    "open": "--distortions or --depictions",
    "time": "--stalls, or --depictions with a time",
    "conversation": "at least two facts of a medium",
    "in-context": "--depictions with a time",
    "causal": "--mos, and --depictions or --distortions",
    "pair": "--mos of at least two videos or two images",
    "comparison": "--mos and --distortions of at least two videos or two images",
    **dict.fromkeys(vida.ROLES, "--metadata"),
}
"""What a kind is made of."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is built."""

    kind: str
    """One of `KINDS`."""
    sources: Sources
    """What is known of the media."""
    media_root: Path
    """Where the media lie."""
    levels: LevelRule | None = None
    """How MOS become levels; needed where there are MOS."""
    style: Style = field(default_factory=Style)
    """Words and draws."""
    cut: stage1.Cut = field(default_factory=stage1.Cut)
    """Clips of stage 1."""
    pairing: Pairing = field(default_factory=Pairing)
    """Pairs."""
    share: float = 1.0
    """Share of the records that are made, drawn; at least one of them."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.style.stall_form not in STALL_FORMS:
            raise ValueError(
                f"stall form {self.style.stall_form!r}: expected one of {', '.join(STALL_FORMS)}"
            )
        if self.cut.is_cut and self.kind != "distortion":
            raise ValueError(f"clips are cut for kind distortion, not for {self.kind}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share:g}, expected more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Built:
    """The records of one kind."""

    records: list[Record]
    """As they are written."""
    num_media: int
    """Media that the files speak of."""
    failed: list[VideoError]
    """Media that had to be read and cannot be: they are in no record."""
    rewritten: Rewritten | None
    """What came of the endpoint, if there was one."""


def build_records(
    plan: Plan, reword: Callable[[Sequence[Draft]], Rewritten] | None = None
) -> Built:
    """Files of labels → records, each read by the one reader of records.

    reword: has the drafts worded anew. Raises BadLinesError for bad labels, ValueError where they
    make no record of this kind, and where no medium can be read.
    """
    is_published = plan.style.is_published
    # Without a look at the files there is no need for them.
    is_read = is_published or plan.cut.is_cut
    media = media_rules(plan.media_root, None, require_files=False)
    facts = read_facts(plan.sources, media, plan.levels)
    infos: dict[str, FileInfo] = {}
    paths = [known.path for known in facts]
    if is_read:
        infos, failed = probe(paths, media.root)
        check_times(facts, infos)
    else:
        failed = missing(paths, media.root)
    lost = {error.path for error in failed}
    usable = [known for known in facts if media.root / known.path not in lost]
    if not usable:
        raise ValueError(f"none of the {len(facts)} media can be read; the first: {failed[0]}")
    check_sizes(usable, infos, media.root)
    drafts = draft_records(plan, usable, infos)
    if not drafts:
        raise ValueError(
            f"what the files say makes no record of kind {plan.kind}, which needs "
            f"{NEEDS[plan.kind]}"
        )
    drafts = draw_share(drafts, plan.share, plan.style.seed)
    rewritten = None if reword is None else reword(drafts)
    drafts = drafts if rewritten is None else rewritten.drafts
    records = [
        record_of(number, plan.kind, draft, infos, is_published=is_published)
        for number, draft in enumerate(drafts)
    ]
    check_records(records, media)
    return Built(records=records, num_media=len(facts), failed=failed, rewritten=rewritten)


def draw_share(drafts: Sequence[Draft], share: float, seed: int) -> list[Draft]:
    """So many of the drafts, in their order. Each medium draws for itself, so that two kinds are
    about the same media."""
    draws = [draw_of(seed, "share", *draft.paths).random() for draft in drafts]
    last = sorted(draws)[max(round(share * len(drafts)), 1) - 1]
    return [draft for draft, drawn in zip(drafts, draws, strict=True) if drawn <= last]


def draft_records(plan: Plan, facts: Sequence[Facts], infos: Mapping[str, FileInfo]) -> list[Draft]:
    """The drafts of a plan's kind."""
    style = plan.style
    if plan.kind == "distortion":
        return stage1.distortion(facts, style, plan.cut, infos)
    if plan.kind == "ugc":
        return stage2.ugc(facts, style)
    if plan.kind == "score":
        return stage2.score(facts, style)
    if plan.kind == "reasoning":
        return stage2.reasoning(facts, style)
    if plan.kind == "streaming":
        return stage2.streaming(facts, style, infos)
    if plan.kind == "pair":
        return pair(facts, style, plan.pairing)
    if plan.kind == "comparison":
        return comparison(facts, style, plan.pairing)
    return {**stage3.KINDS, **vida.ROLES}[plan.kind](facts, style)
