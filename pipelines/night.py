"""The night: what users did becomes rewards, rewards become queries, queries become feeds.

    engagements, items, impressions                        (landed by imports, or appended daily)
      1 build_profiles       HISTORY with the new ENGAGEMENTS, ITEMS     -> PROFILES
      2 attribute_outcomes   ripe IMPRESSIONS, ENGAGEMENTS, the draws    -> OUTCOMES
      3 tally_rewards        OUTCOMES, closed draws, last night's        -> REWARDS
        fit_prior, item rates, over all users; then roll up              -> CLUSTER_REWARDS
      4 select_queries       CLUSTER_REWARDS                             -> QUERIES
      5 retrieve_candidates  QUERIES, model, index                       -> CANDIDATES
      6 rerank_feed          CANDIDATES, ITEMS                           -> FEED
         the feed is served; its impressions come back as a later night's input of step 2

Three blocking Beam jobs with staged tables between them; a night that broke off goes on from the
last job that finished. Nothing is visible before the last line publishes the manifest.
"""

from __future__ import annotations

import io
import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PortableOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.candidates import RetrieveCandidates
from pipelines.cluster_rewards import RollUpClusterRewards
from pipelines.evidence import EvidenceSource, fit_books, plan_evidence, store_item_rates
from pipelines.feed import RerankFeed
from pipelines.logs import tell
from pipelines.night_options import UNTIL
from pipelines.outcomes import AttributeOutcomes
from pipelines.plan import NightPlan, open_items, package_version
from pipelines.profiles import BuildProfiles
from pipelines.progress import progress_bars, told
from pipelines.queries import SelectQueries
from pipelines.rewards import TallyRewards
from pipelines.runners.buckets import JobRecord, ReadTables, WriteTables
from pipelines.runners.options import RunnerOptions
from pipelines.runners.shuffle import IntoBuckets
from pipelines.runners.workers import check_endpoint
from pipelines.serving import Serving, plan_serving, serving_digest
from pipelines.settled import BringBackSettled, SetAsideSettled
from pipelines.store.manifests import Manifest, Tables
from pipelines.store.object_stores import without_secrets
from pipelines.store.storage import exists, join, list_names, read_bytes, remove_files, remove_paths
from pipelines.store.tables import read_files
from pipelines.store.warehouse import PublishConflict, Warehouse
from pipelines.summary import tell_published
from selection.outcomes import LAST_COLUMNS
from selection.prior import PRIOR_SUMS, Prior, fit_prior

LEARNED = (
    "HISTORY", "PROFILES", "PAST_PROFILES", "OPEN", "OUTCOMES", "CLOSED_DRAWS",
    "SERVED_DRAWS", "REWARDS", "ITEM_RATES", "REJECTED",
)  # fmt: skip
CHOSEN = ("CLUSTER_REWARDS", "QUERIES")
SERVED = ("ENCODINGS", "CANDIDATES", "FEED")
STEPS = {
    "1": ("build_profiles", "attribute_outcomes", "tally_rewards", "write"),
    "2": ("roll_up_cluster_rewards", "select_queries", "write"),
    "3": ("retrieve_candidates", "rerank_feed", "write"),
}


@dataclass(frozen=True)
class RunOptions:
    """How a night runs; nothing here changes a row.

    Attributes:
        beam_args: Options for Beam, as on its command line; the runner is in-process by default.
        until: The last step: rewards, queries (for teams with their own retrieval) or feed.
        progress: Whether to show bars on a terminal.
    """

    beam_args: tuple[str, ...] = ()
    until: str = "feed"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.until not in UNTIL:
            raise ValueError(f"until must be one of {', '.join(UNTIL)}, got {self.until!r}")
        if self.beam_args:
            check_beam_args(self.beam_args)


def check_beam_args(args: tuple[str, ...]) -> None:
    """Raise ValueError for options that Beam would refuse, or only warn of and leave out.

    A job server may know more options than Beam's own: for its runners unknown ones are passed on.
    """
    complaint = io.StringIO()
    logging.disable(logging.WARNING)  # Beam's own, of what is refused here
    try:
        with redirect_stderr(complaint):
            options = RunnerOptions(list(args))
            known = set(options.get_all_options())
            every = set(options.get_all_options(retain_unknown_options=True))
    except SystemExit:  # argparse printed its whole usage, then the problem
        problem = complaint.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(f"Beam: {problem}; correct it") from None
    finally:
        logging.disable(logging.NOTSET)
    runner = options.view_as(StandardOptions).runner or "FnApiRunner"
    if every - known and runner.endswith(("DirectRunner", "FnApiRunner")):
        unknown = sorted(every - known)
        near = get_close_matches(unknown[0], known, 1)
        cure = f"the nearest is --{near[0]}" if near else "see --help"
        names = ", ".join(f"--{name}" for name in unknown)
        raise ValueError(f"{names}: no option of `queryloop night`, nor of Beam; {cure}")
    for before, arg in zip(("", *args), args, strict=False):
        if not arg.startswith("-") and not before.startswith("-"):
            raise ValueError(f"{arg!r} belongs to no option; see `queryloop night --help`")


@dataclass(frozen=True)
class Fits:
    """What was fitted over all users between jobs 1 and 2, and where its evidence lies."""

    prior: Prior
    evidence: EvidenceSource | None


def run_plan(
    warehouse: Warehouse,
    plan: NightPlan,
    run: RunOptions,
    *,
    head: bool = True,
    expected_head: int | None = None,
) -> Manifest:
    """Run one planned night and publish it.

    Args:
        warehouse: Where.
        plan: What it reads.
        run: How it runs.
        head: Whether readers are to see it.
        expected_head: The head that it went on from.

    Raises:
        ValueError: Too many rows were refused, or a model cannot be used; nothing is published.
        PublishConflict: Another night was published meanwhile.
    """
    started = time.perf_counter()
    stored, books = dict(plan.given), []
    serves = plan.kind == "night" and run.until == "feed"
    with told(show=run.progress and serves) as note:
        note("open the models and their indexes")
        serving = plan_serving(plan) if serves else {}

    learned = run_job(plan, run, "1-learn", learn)
    check_rejected(learned, plan)
    stored |= learned.tables
    books.append(learned)

    sums = [pa.Table.from_pylist(b["sums"], PRIOR_SUMS.arrow) for b in learned.books]
    prior = fit_prior(sums, plan.config.prior)  # over all users, in bucket order
    stored["ITEM_RATES"] = store_item_rates(plan, stored.pop("ITEM_RATES", ()))
    slopes = None
    if plan.kind != "bootstrap":
        until = run.until if plan.kind == "night" else "rewards"
        fits = Fits(prior, plan_evidence(plan, stored))
        choose = partial(choose_queries, stored=stored, fits=fits, until=until)
        chosen = run_job(plan, run, f"2-choose-{until}", choose)
        stored |= chosen.tables
        books.append(chosen)
        slopes = fit_books(plan, chosen.books)

    if serves:
        serve = partial(serve_feeds, stored=stored, serving=serving)
        served = run_job(plan, run, f"3-serve{serving_digest(serving)}", serve)
        stored |= served.tables
        books.append(served)

    draft = replace(draft_manifest(plan, run, stored, books, prior), head=head, slopes=slopes)
    draft = served_by(draft, plan, serving)
    draft.seconds["all"] = round(time.perf_counter() - started, 3)
    published = warehouse.publish(draft, expected_head, erasures=plan.erasures)
    tell_published(published)
    if head:
        remove_strays(warehouse, plan, published)
    remove_files(staged(plan))  # run again, the night is to be computed again
    return published


def remove_strays(warehouse: Warehouse, plan: NightPlan, published: Manifest) -> None:
    """Delete what attempts of this plan wrote that no manifest names: their workers were lost.

    Before the staged records go: whoever still runs the same plan adopts those, not its own files.
    """
    written = {
        join("data", table, name)
        for table in (*LEARNED, *CHOSEN, *SERVED)
        for name in list_names(join(plan.root, "data", table))
        if name.startswith(plan.stem)
    }
    strays = written - _named(published)
    if strays:  # rare; an earlier run of the very same plan has its own manifest
        strays = strays.difference(*map(_named, warehouse.manifests()))
        remove_paths([join(plan.root, path) for path in sorted(strays)])


def _named(manifest: Manifest) -> set[str]:
    return {file.path for files in manifest.tables.values() for file in files}


def learn(pipeline: beam.Pipeline, plan: NightPlan, record: str) -> None:
    """Job 1: what users did enters their state."""
    _ = (
        pipeline
        | "new rows" >> IntoBuckets(plan.root, plan.buckets, plan.inputs, staged(plan))
        | "state" >> ReadTables(plan.root, learn_reads(plan), {"last OUTCOMES": LAST_COLUMNS})
        | "settled users aside" >> SetAsideSettled(plan)
        | "1 BuildProfiles" >> BuildProfiles(plan)
        | "2 AttributeOutcomes" >> AttributeOutcomes(plan)
        | "settled users back" >> BringBackSettled()
        | "3 TallyRewards" >> TallyRewards(plan)
        | "write" >> WriteTables(plan.root, LEARNED, plan.stem, record)
    )


def choose_queries(
    pipeline: beam.Pipeline,
    plan: NightPlan,
    record: str,
    *,
    stored: Tables,
    fits: Fits,
    until: str,
) -> None:
    """Job 2: what the queries earned decides which speak tonight."""
    reads = {name: stored.get(name, ()) for name in ("PROFILES", "REWARDS")}
    rolled = (
        pipeline
        | "buckets" >> IntoBuckets(plan.root, plan.buckets)
        | "state" >> ReadTables(plan.root, reads)
        | "3 RollUpClusterRewards" >> RollUpClusterRewards(plan, fits.prior, fits.evidence)
    )
    if until != "rewards":
        rolled |= "4 SelectQueries" >> SelectQueries(plan)
    _ = rolled | "write" >> WriteTables(plan.root, CHOSEN, plan.stem, record)


def serve_feeds(
    pipeline: beam.Pipeline, plan: NightPlan, record: str, *, stored: Tables, serving: Serving
) -> None:
    """Job 3: the queries drive retrieval, and the feed is built."""
    names = ["QUERIES", "HISTORY"]
    if any(arm.model for arm in serving.values()):
        names.append("PROFILES")
    reads = {name: stored.get(name, ()) for name in names}
    _ = (
        pipeline
        | "buckets" >> IntoBuckets(plan.root, plan.buckets)
        | "state" >> ReadTables(plan.root, reads)
        | "5 RetrieveCandidates" >> RetrieveCandidates(plan, serving)
        | "6 RerankFeed" >> RerankFeed(plan)
        | "write" >> WriteTables(plan.root, SERVED, plan.stem, record)
    )


def learn_reads(plan: NightPlan) -> Tables:
    """What job 1 reads of the parent's state and of nights nearby."""
    names = ("HISTORY", "OPEN", "PROFILES", "PAST_PROFILES", "REWARDS")
    return {name: plan.state.get(name, ()) for name in names} | plan.nearby


def staged(plan: NightPlan) -> str:
    """The folder of the records of this plan's finished jobs."""
    return join(plan.root, "staged", plan.stem)


Build = Callable[[beam.Pipeline, NightPlan, str], None]


def run_job(plan: NightPlan, run: RunOptions, name: str, build: Build) -> JobRecord:
    """Run one blocking job, or take up what a finished one left: its record is the resume point."""
    record, started = join(staged(plan), f"{name}.json"), time.perf_counter()
    resumed = exists(record)
    if not resumed:
        options = RunnerOptions(list(run.beam_args))
        if endpoint := options.view_as(PortableOptions).job_endpoint:
            check_endpoint(endpoint)
        runner = None if options.view_as(StandardOptions).runner else FnApiRunner()
        pipeline = beam.Pipeline(runner=runner, options=options)
        build(pipeline, plan, record)
        title = f"{plan.date} {plan.kind}, job {name[0]} of 3:"
        with progress_bars(title, STEPS[name[0]], plan.buckets, show=run.progress):
            pipeline.run().wait_until_finish()
    try:
        found, clock = JobRecord.from_json(read_bytes(record)), time.perf_counter() - started
        about = {"night": plan.date, "kind": plan.kind, "job": name, "resumed": resumed}
        tell("job", about=about | {"seconds": round(clock, 3)})
        return replace(found, clock=clock)
    except FileNotFoundError:  # whoever published this very night removed it
        raise PublishConflict(
            f"another run of the night {plan.date} was published while this one ran; nothing of "
            "this run is visible: run it again if you mean to replay it"
        ) from None


def check_rejected(learned: JobRecord, plan: NightPlan) -> None:
    """Stop the night where too large a share of its new rows was refused."""
    counts, config = learned.counts(), plan.config
    for name in ("engagements", "impressions"):
        landed, refused = counts[name]["landed"], counts[name]["rejected"]
        if refused > max(config.rejected_rows, config.rejected_share * landed):
            rows = read_files(plan.root, "REJECTED", learned.tables["REJECTED"])
            reasons = Counter(
                rows.filter(pc.equal(rows["source"], name.upper()))["reason"].to_pylist()
            )
            ((reason, times),) = reasons.most_common(1)
            raise ValueError(
                f"{refused:,} of {landed:,} new {name} were refused, more than rejected_share "
                f"{config.rejected_share:g}; nothing is published. {times:,} of them: {reason}. "
                "Mend that, or raise rejected_share in queryloop.yaml if it is expected."
            )


def draft_manifest(
    plan: NightPlan,
    run: RunOptions,
    stored: Tables,
    books: list[JobRecord],
    prior: Prior,
) -> Manifest:
    """The night's manifest; its number, and what readers go by, are still to be given."""
    config = plan.config
    counts = {step: c for record in books for step, c in record.counts().items()}
    seconds = [record.seconds() for record in books]
    spent = {k: s[k] for s in seconds for k in s if k != "write"}
    spent |= {f"job {i + 1}": record.clock for i, record in enumerate(books)}
    return Manifest(
        number=0,
        parent=plan.parent,
        kind=plan.kind,
        head=False,
        date=plan.date,
        cutoff=plan.cutoff,
        tables=stored,
        inputs=plan.inputs,
        catalogue=plan.catalogue,
        config=json.loads(json.dumps(asdict(config), default=str)),  # as it is read back
        config_digest=config.digest,
        seed=config.seed,
        embedding_version=open_items(plan.root, plan.catalogue["ITEMS"]).version,
        counts=counts,
        seconds={name: round(s, 3) for name, s in spent.items()},
        prior=prior.to_json(),
        runner=" ".join(without_secrets(run.beam_args)) or "in-process",
        versions=library_versions(),
    )


def served_by(draft: Manifest, plan: NightPlan, serving: Serving) -> Manifest:
    """The draft with what made its candidates; a replayed night keeps what it was served with."""
    retrieval = {name: arm.to_json() for name, arm in serving.items()} or plan.given_retrieval
    used = sorted({how["model"] for how in retrieval.values() if how["model"] is not None})
    return replace(draft, retrieval=retrieval, model=", ".join(map(str, used)) or None)


def library_versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Versions of what decides a row's bits; `more` of what trains a model."""
    libraries = ("apache-beam", "numpy", "pyarrow", "numba", "duckdb", "scikit-learn", *more)
    ours = {"python": platform.python_version(), "queryloop": package_version()}
    return ours | {name: version(name) for name in libraries}
