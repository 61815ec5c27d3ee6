# Fresh environments beside .venv, with Thinker's core and the packages from where setup.sh has them. To be sourced from the root of the
# checkout; sets main (the Python of .venv) and torch (the version that it has).
main=$PWD/.venv/bin/python uv=$PWD/.venv/bin/uv
links=()
for place in $("$main" -m pip config get global.find-links 2>/dev/null || true); do links+=(--find-links "$place"); done
index=$("$main" -m pip config get global.index-url 2>/dev/null || true)
if [[ -n $index ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
torch=$("$main" -c 'import torch; print(torch.__version__)')
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# fresh_environment FOLDER ARGUMENT…: makes it, with our core, this torch, and what the arguments of uv pip install name
fresh_environment() {
    local folder=$1
    "$uv" venv --quiet --python "$main" "$folder" || return 1
    VIRTUAL_ENV=$folder "$uv" pip install --quiet "${links[@]}" --editable . "torch==$torch" "${@:2}" || return 1
    cp "$(site "$main")"/_thinker_torchvision_cpu_ops.* "$(site "$folder/bin/python")" 2>/dev/null || true # see setup.sh
}
