# shellcheck shell=bash disable=SC2034  # used where this is sourced
# Settings of the test machine, and what `vm`, `image` and `deps` share. Sourced, never run.
set -euo pipefail
VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VM_SUITE=${VM_SUITE:-trixie}      # trixie | bookworm: the Debian release of the guest
VM_KERNEL=${VM_KERNEL:-stable}    # stable: the kernel of that release | backports: the newest that its repositories serve
VM_NAME=${VM_NAME:-default}       # several machines may run at once under different names
VM_MEM=${VM_MEM:-2048}            # MiB
VM_CPUS=${VM_CPUS:-2}
# Images, snapshots and the disks of guests. Nothing in it is needed when no guest runs.
VM_CACHE=${VM_CACHE:-$([ "$(id -u)" = 0 ] && echo /var/cache/bailiwick-vm || echo "${XDG_CACHE_HOME:-$HOME/.cache}/bailiwick-vm")}
VM_BOOT_TIMEOUT=${VM_BOOT_TIMEOUT:-180}      # seconds
VM_OWNER_PID=${VM_OWNER_PID:-}    # a process with which a guest that is started now shall end

say() { printf '%s vm %s: %s\n' "$(date +%T)" "$VM_NAME" "$*" >&2; }
die() { say "error: $*"; exit 1; }

# When a process began, in clock ticks since boot: with the pid it names one process for ever. Nothing for a dead one.
began() {
    local stat pid=$1
    { read -r stat < "/proc/$1/stat"; } 2> /dev/null || return 0
    # Words 3 and 22; the second may hold spaces. A zombie is dead once its other threads are: until then it has its files open.
    # shellcheck disable=SC2086  # a list of words
    set -- ${stat##*) }
    [ "$1" = Z ] && [ "$(compgen -G "/proc/$pid/task/*" | wc -l)" -le 1 ] || echo "${20}"
}
# Is the process that this file names still the one? FILE holds a pid and when it began.
runs() {
    local pid start
    { read -r pid start < "$1"; } 2> /dev/null && [ -n "$start" ] && [ "$(began "$pid")" = "$start" ]
}

host_release() { . /etc/os-release; echo "${VERSION_CODENAME:-}"; }

# The mirror that this machine's own apt uses for a release, so that none is written down here. It tells only what it has
# lists of, which a fresh machine has not.
mirror_of() {
    # shellcheck disable=SC2016  # apt's own words
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$1" '$2 == release && $3 == "main" { print $1; exit }'
}

# Lines for apt: a release with its updates, backports and security.
sources_of() {
    local release=$1 main security
    main=$(mirror_of "$(host_release)")
    if [ -z "$main" ]; then
        apt-get -o DPkg::Lock::Timeout=600 update -qq >&2
        main=$(mirror_of "$(host_release)")
    fi
    security=$(mirror_of "$(host_release)-security")
    [ -n "$main" ] || die "apt on this machine has no mirror of Debian's main archive (see /etc/apt/sources.list)"
    printf 'deb %s %s main\n' "$main" "$release" "$main" "$release-updates" "$main" "$release-backports"
    [ -z "$security" ] || printf 'deb %s %s-security main\n' "$security" "$release"
}

# Options for apt that give it lists and settings of its own for a release, brought up to date once a day: the machine's own
# are left as they are. apt_of RELEASE STATUS-FILE
apt_of() {
    local release=$1 dir="$VM_CACHE/apt/$1"
    mkdir -p "$dir/lists/partial" "$dir/parts" "$dir/archives/partial"
    local options="-o Dir::Etc::sourcelist=$dir/sources.list -o Dir::Etc::sourceparts=$dir/parts -o Dir::State::lists=$dir/lists
        -o Dir::State::status=$2 -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3"
    sources_of "$release" > "$dir/sources.new"
    if ! cmp -s "$dir/sources.new" "$dir/sources.list" || [ -z "$(find "$dir/stamp" -mmin -1440 2> /dev/null)" ]; then
        mv "$dir/sources.new" "$dir/sources.list"
        # shellcheck disable=SC2086  # a list of words
        apt-get $options update -qq >&2
        touch "$dir/stamp"
    fi
    echo "$options"
}
