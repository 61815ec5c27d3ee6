# What the scripts of supervised stages share. To be sourced, with `run` set (stage1, …), and `sets`: for each stage of
# run_scripts/configs/sft_$run.yaml, in order, "STAGE VARIABLE DEMO_YAML". `maker` names what makes the data of the demo
# (lib/demo_records.sh), `texts` a file of what its tokenizer should know.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash setup.sh
thinker=(.venv/bin/python -m thinker.cli)
source run_scripts/lib/demo_records.sh

output=${OUTPUT_DIR:-runs/$run}
arguments=(--config "run_scripts/configs/sft_$run.yaml" "data.cache=$output/cache")
missing=() named=()
for set in "${sets[@]}"; do
    read -r stage variable demo <<<"$set"
    if [[ -n ${!variable:-} ]]; then
        named+=("$variable")
        arguments+=("stages.$stage.data=[{config: '${!variable}'}]")
    else
        missing+=("$variable")
        # Rates of a model that was trained before move a random one by nothing.
        arguments+=("stages.$stage.data=[{config: $demo}]" "stages.$stage.trainer.max_steps=${STEPS:-150}"
            "stages.$stage.trainer.per_device_train_batch_size=16" "stages.$stage.trainer.logging_steps=25"
            "stages.$stage.trainer.gradient_checkpointing=false")
        for part in ${parts[$stage]}; do arguments+=("stages.$stage.train.$part=7.0e-4"); done
    fi
done
if [[ ${#missing[@]} == "${#sets[@]}" ]]; then
    small=()
    if [[ ${SMOKE:-0} == 1 ]]; then small=(--small); fi
    data=${DEMO_DATA:-$(realpath -m "$output")/data}
    "${maker:-demo_records}" "$data" "${small[@]}"
    if [[ $run == stage2 ]]; then "${thinker[@]}" demo-data --stalled --small --output "$data/stalled"; fi
    variables="{ASSISTANT_ROOT: '$data', STALLED_ROOT: '$data/stalled', STALL_TEXT: sentences}"
    arguments+=("model.path=${MODEL:-tiny}" "model.dtype=float32" "data.variables=$variables"
        "model.texts=${texts:-$data/clips/texts.txt}")
elif [[ ${#missing[@]} -gt 0 || -z ${MODEL:-} ]]; then
    echo "set MODEL with ${named[*]} ${missing[*]}, or none of them for the demo" >&2
    exit 2
else
    arguments+=("model.path=$MODEL")
fi

source run_scripts/lib/launch.sh
