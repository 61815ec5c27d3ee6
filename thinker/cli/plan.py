"""`thinker plan`: time, memory, network and money of training and of scoring, before either."""

import argparse
from pathlib import Path

NAME = "plan"
HELP = "time, memory, network, money of a run"

GPUS_A_NODE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="public backbone, as InternVL3-8B")
    parser.add_argument("--gpus", type=int, required=True, help="all GPUs")
    parser.add_argument("--nodes", type=int, help="machines with as many GPUs each (8 each)")
    parser.add_argument("--gpu", default="H100-SXM", help="kind, of those with rates")
    parser.add_argument("--videos", type=int, help="videos of the training set")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--score", type=int, metavar="N", help="videos of an archive to be scored")
    training = parser.add_argument_group("training")
    training.add_argument("--videos-per-gpu", type=int, default=4, help="a step (default 4)")
    training.add_argument("--micro-batches", type=int, default=2, help="that they are divided into")
    training.add_argument("--generations", type=int, default=4, help="completions a video")
    training.add_argument("--completion-tokens", type=int, default=400, help="mean length")
    training.add_argument("--spread", type=float, default=0.5, help="of lengths, deviation / mean")
    training.add_argument("--longest", type=int, default=2048, help="max_completion_length")
    training.add_argument("--frames", type=int, default=12, help="keyframes a video")
    training.add_argument("--px", type=int, help="side of a keyframe (InternVL; default 448)")
    training.add_argument("--sharding", default="fsdp2", help="ddp, zero2, zero3, fsdp2")
    training.add_argument("--lora", action="store_true", help="LoRA and the projectors")
    training.add_argument("--kl", action="store_true", help="a KL term: reference policy")
    training.add_argument("--copies", action="store_true", help="temporal reward: perturbed copies")
    training.add_argument("--server-gpus", type=int, default=0, help="that serve rollouts by vLLM")
    training.add_argument("--push", default="disk", help="how servers get weights: disk, nccl")
    parser.add_argument("--rates", type=Path, help="YAML of rates over the stated ones")
    parser.add_argument("--show-rates", action="store_true", help="every rate and its source")


def run(args: argparse.Namespace) -> int:
    if args.videos is None and args.score is None:
        raise ValueError("nothing to plan: give --videos (training), --score (an archive), or both")
    for name in ("videos", "score"):
        given = getattr(args, name)
        if given is not None and given < 1:
            raise ValueError(f"--{name} is {given}, expected at least 1")
    nodes = max(1, -(-args.gpus // GPUS_A_NODE)) if args.nodes is None else args.nodes
    if args.gpus < 1 or nodes < 1 or args.gpus % nodes:
        raise ValueError(
            f"--gpus is {args.gpus} and --nodes {nodes}, expected at least one of each, and as "
            "many GPUs in every node"
        )
    if not 0 <= args.server_gpus < args.gpus:
        raise ValueError(
            f"--server-gpus is {args.server_gpus}, expected 0 to {args.gpus - 1}: the others train"
        )

    from thinker.plan.rates import load_rates
    from thinker.plan.report import archive_text, assumptions_text, training_text
    from thinker.plan.scoring import MODES, archive_plan
    from thinker.plan.simulate import Lengths
    from thinker.plan.step import Job, StepPlan
    from thinker.plan.training import training_plan
    from thinker.policies.cost import StepSize

    rates = load_rates(args.rates)
    job = Job(
        model=args.model,
        size=StepSize(
            num_keyframes=args.frames,
            num_generations=args.generations,
            completion_tokens=args.completion_tokens,
            num_videos=args.videos_per_gpu,
        ),
        gpu=args.gpu,
        gpus=args.gpus,
        nodes=nodes,
        server_gpus=args.server_gpus,
        push=args.push,
        sharding=args.sharding,
        lora=args.lora,
        micro_batches=args.micro_batches,
        with_reference=args.kl,
        with_copies=args.copies,
        px=args.px,
    )
    lengths = Lengths(mean=args.completion_tokens, spread=args.spread, longest=args.longest)
    parts = []
    if args.videos is not None:
        found = training_plan(job, rates, videos=args.videos, epochs=args.epochs, lengths=lengths)
        parts.append(training_text(found))
    if args.score is not None:
        plan = StepPlan(job, rates)
        parts += [archive_text(archive_plan(plan, args.score, mode)) for mode in MODES]
    if args.show_rates:
        parts.append(assumptions_text(rates, args.gpu))
    print("\n\n".join(parts))
    return 0
