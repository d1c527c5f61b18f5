# The processes: which the connection runs on, and the end of all others.

# fields_of PID: sets fields to those of /proc/PID/stat behind the name, which may hold anything, or fails. PID may be that of a
# thread, as PID/task/THREAD.
fields_of() {
    fields=
    { while IFS= read -r line || [ -n "$line" ]; do fields=$fields$line; done <"/proc/$1/stat"; } 2>/dev/null
    case $fields in *')'*) fields=${fields##*)} ;; *) return 1 ;; esac
}

# start_of PID: sets result to when it was started, in ticks since the boot of the machine, or to nothing.
start_of() {
    result=
    fields_of "$1" || return 0
    # shellcheck disable=SC2086 # fields
    set -- $fields
    [ $# -lt 20 ] || { shift 19; result=$1; }
}

# place_of PID: sets place to where /proc shows what a process has: if its first thread has ended, in the directory of another.
place_of() {
    place=/proc/$1
    eval "state=\$state_$1"
    [ "$state" = L ] || return 0
    set +f
    for thread in "/proc/$1/task"/*; do
        fields_of "${thread#/proc/}" || continue
        case ${fields# } in Z* | X*) ;; *) place=$thread; break ;; esac
    done
    set -f
}

# arguments_of PID: sets arguments to those of a process, a line each.
arguments_of() { arguments=$(tr '\0\n' '\n\001' <"/proc/$1/cmdline" 2>/dev/null); }

# ancestors PID: those and itself.
ancestors() {
    p=$1
    while [ "${p:-0}" -gt 0 ]; do
        echo "$p"
        eval "p=\${parent_$p:-0}"
    done
}

# look_at_processes sets all (pids), spared, held, and parent_PID, state_PID (L for one that lives on without its first thread)
# and session_PID. Those that are held are stopped
# like all others, and killed as the last act of a finish: PID 1 may wait for them, and its end is that of the container.
look_at_processes() {
    all='' tunnels=''
    set +f
    set -- /proc/[0-9]*
    set -f
    for proc; do look_at_process "${proc#/proc/}"; done
    # When the connection breaks, the way up to the server that listens is lost: so it is kept from the first look.
    : "${line_up:=$(ancestors $$ | tr '\n' ' ')}"
    : "${far:= $(far_end | tr '\n' ' ')}"
    ways="$tunnels $far"
    spared=" 1 $line_up $ways "
    held=" $(for p in $ways; do eval "ancestors \${parent_$p:-0}"; done | tr '\n' ' ') "
    waiting=' '
    for p in 1 $line_up; do
        [ "$p" != $$ ] && case $(cat "/proc/$p/comm" 2>/dev/null) in sshd*) false ;; esac && waiting="$waiting$p "
    done
    serving=" $(servers | tr '\n' ' ')"
    for p in $all; do if waited_for "$p" || serves "$p"; then held="$held$p "; fi; done
}

# servers prints the processes that have the device open by which file systems are served, if one of those is mounted; see fuse(4).
servers() {
    grep -q ' - fuse[^c]' /proc/self/mountinfo || return 0
    set +f
    ls -ln /proc/[0-9]*/fd 2>/dev/null | sed -n 's|^/proc/\([0-9]*\)/fd:$|\1|p; s|^.* -> /dev/fuse$|serves|p' | while read -r word; do
        if [ "$word" = serves ]; then echo "$pid"; else pid=$word; fi
    done
    set -f
}

# serves PID: whether it serves a file system, or was started by what does, as is the ssh of sshfs. Such a one is not stopped: who
# looked at its files would wait for ever.
serves() {
    [ "$serving" != ' ' ] || return 1
    q=$1
    while [ "${q:-0}" -gt 0 ]; do
        case $spared in *" $q "*) return 1 ;; esac
        case $serving in *" $q "*) return 0 ;; esac
        eval "q=\${parent_$q:-0}"
    done
    return 1
}

# waited_for PID: whether its parent may wait for it: PID 1, or what started the ssh server. A child of PID 1 that has another's
# session can have that only from a parent that has ended, and nobody waits for it.
waited_for() {
    eval "q=\$parent_$1 session=\$session_$1"
    case $waiting in *" $q "*) ;; *) return 1 ;; esac
    # shellcheck disable=SC2154 # by eval
    [ "$q" != 1 ] || [ "$session" = "$1" ] || [ "$session" = "$session_1" ]
}

# look_at_process PID. A tunnel is how Vast.ai's gateway reaches a container: an ssh without a terminal that forwards a port.
look_at_process() {
    pid=$1
    fields_of "$pid" || return 0
    # shellcheck disable=SC2086 # fields
    set -- $fields
    [ $# -ge 18 ] || return 0
    # The first thread of a process may end, and the others go on.
    case $1 in Z | X) [ "${18}" -le 1 ] || { shift; set -- L "$@"; } ;; esac
    eval "parent_$pid=\$2 state_$pid=\$1 session_$pid=\$4"
    all="$all $pid"
    [ "$5" = 0 ] || return 0
    arguments_of "$pid"
    first=${arguments%%"$newline"*}
    case ${first##*/}:$arguments in ssh:*"$newline-R"*) tunnels="$tunnels $pid" ;; esac
}

# table_addr ADDRESS PORT: prints an address as /proc/net/tcp does; of an IPv6 table it is the end.
table_addr() {
    case $1 in
        *.*.*.*)
            low=${1##*.} high=${1#*.}
            middle=${high#*.}
            printf '%02X%02X%02X%02X:%04X' "$low" "${middle%%.*}" "${high%%.*}" "${1%%.*}" "$2" 2>/dev/null
            ;;
        ::1) printf '01000000:%04X' "$2" 2>/dev/null ;;
    esac
}

# far_end prints the processes that hold the other end of our connection, if that is in this container. See ssh(1) for
# SSH_CONNECTION and proc_pid_net(5) for the tables. One address alone may be that of several connections, with other ends. The
# kernel hands a table out in pieces, and does not promise that what is closed between two of them hides no other row.
far_end() {
    # shellcheck disable=SC2086 # client port server port
    set -- ${SSH_CONNECTION:-}
    [ $# = 4 ] || return 0
    case $1 in 127.*.*.* | ::1) ;; *) return 0 ;; esac
    ends="$(table_addr "$1" "$2") [0-9A-F]*$(table_addr "$3" "$4") "
    for _ in 1 2 3 4 5; do
        socket=$(grep -h "$ends" /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r _ _ _ _ _ _ _ _ _ inode _; do
            [ "$inode" = 0 ] || { echo "$inode"; break; }
        done)
        [ -z "$socket" ] || break
    done
    [ -n "$socket" ] || return 0
    set +f
    for fd in /proc/[0-9]*/fd/*; do
        [ "$(readlink "$fd" 2>/dev/null)" != "socket:[$socket]" ] || echo "$fd" | cut -d/ -f3
    done
    set -f
}

# doomed lists the processes to be ended, and on_hold those that are held. What is spared, and what this script has started, is
# in neither.
doomed() { others no; }
on_hold() { others yes; }

others() {
    for p in $all; do
        eval "state=\$state_$p"
        case $spared in *" $p "*) continue ;; esac
        case $state in Z | X) continue ;; esac
        kept=no
        case $held in *" $p "*) kept=yes ;; esac
        [ $kept != "$1" ] || descends "$p" $$ || echo "$p"
    done
}

# descends PID ANCESTOR: whether that has started it, or is it.
descends() {
    q=$1
    while [ "${q:-0}" -gt 0 ]; do
        [ "$q" != "$2" ] || return 0
        eval "q=\${parent_$q:-0}"
    done
    return 1
}

# describe PID: prints whether it is on the GPU, and its name, in hex. Its arguments may hold secrets.
describe() {
    gpu=no
    place_of "$1"
    set +f
    for fd in "$place/fd"/*; do case $(readlink "$fd" 2>/dev/null) in /dev/nvidia*) gpu=yes ;; esac; done
    set -f
    printf '%s %s' $gpu "$(hex "$(cat "/proc/$1/comm" 2>/dev/null)")"
}

# deleted PID FUNCTION: calls it for every file without a name that a process has open and that a rule could reach.
deleted() {
    holder=$1 what=$2 seen=yes reached=
    place_of "$1"
    set +f
    set -- "$place/fd"/*
    set -f
    for fd; do
        if ! name=$(readlink "$fd" 2>/dev/null && echo .); then
            # A container's root may not look at what another user's process has open.
            [ ! -L "$fd" ] || seen=no
            continue
        fi
        name=${name%??}
        case $name in /*' (deleted)') name=${name%' (deleted)'} ;; *) continue ;; esac
        reached=$reached$name//
        facts=$(stat -L -c '%h %d:%i %s %b' "$fd" 2>/dev/null) && [ -f "$fd" ] || continue
        # shellcheck disable=SC2086 # numbers
        set -- $facts
        case " $used " in *" $2 "*) continue ;; esac
        mount_of "$name"
        [ "$1:$class" != 0:volume ] || allowed "$point" || continue
        [ "$1" != 0 ] || $what "$fd" "$name" "$2" "$3" "$4"
    done
    [ "$holder" = 1 ] || [ $seen = no ] || ! hidden || seen=no
    [ $seen = yes ] || [ "$holder" = 1 ] || of_process unseen "$(cat "/proc/$holder/comm" 2>/dev/null)" "process $holder"
}

# stays_in_use: whether the machine is to be used further, since nothing takes its login away. What is held goes on then, and nothing
# is done to what only that reaches.
stays_in_use() { [ $logins = no ]; }

# give_back lets what is held go on if the machine stays in use. A run that has left something, or was stopped, has no finish.
give_back() {
    [ "$processes" = yes ] && stays_in_use || return 0
    look_at_processes
    # shellcheck disable=SC2046 # numbers
    kill -CONT $(on_hold) 2>/dev/null
}

# used_deleted tells of the files without a name that the processes which go on read or run, and of all those that are held by what
# the machine stays in use for. They stay for as long as these processes do.
used_deleted() {
    reached=' '
    holders=$spared
    ! stays_in_use || holders="$spared $(on_hold | tr '\n' ' ')"
    for holder in $holders; do
        [ "$holder" != $$ ] || continue
        whole=no
        case " 1 $held " in *" $holder "*) ! stays_in_use || whole=yes ;; esac
        place_of "$holder"
        set +f
        set -- "$place/exe" "$place/fd"/*
        set -f
        for fd; do
            name=$(readlink "$fd" 2>/dev/null && echo .) || continue
            name=${name%??}
            case $name in /memfd:*) continue ;; /*' (deleted)') name=${name%' (deleted)'} ;; *) continue ;; esac
            facts=$(stat -L -c "$stamp %h %d:%i" "$fd" 2>/dev/null) && [ -f "$fd" ] || continue
            on_disk "$name" || [ $class = memory ] || continue
            inlayer=no
            [ $class != layer ] || inlayer=yes
            # shellcheck disable=SC2086 # numbers
            set -- $facts
            [ "$2" = 0 ] && fresh "$1" || continue
            case "$reached" in *" $3 "*) continue ;; esac
            case "$whole: $used " in yes:* | *" $3 "*) reached="$reached$3 " && item in-use 0 "$name" ;; esac
        done
    done
}

# hidden: whether holder runs a program that has no name any more, or has mapped such a file that it has not open. Linux lets
# nobody write to a program that runs, and nobody but the machine's root open a file through its mapping. What a package has
# brought and its next version has replaced is left out by its place.
hidden() {
    program=$(readlink "$place/exe" 2>/dev/null)
    case $program in *' (deleted)')
        inlayer=yes
        changed=$(stat -L -c "$stamp %h" "$place/exe" 2>/dev/null)
        [ "${changed#* }" != 0 ] || ! fresh "${changed% *}" || ! on_disk "${program%' (deleted)'}" || return 0
        ;;
    esac
    mapped=$(sed -n 's|^[^/]*\(/.*\) (deleted)$|\1|p' "$place/maps" 2>/dev/null | sort -u)
    printf '%s\n' "$mapped" | (
        while IFS= read -r name; do
            case $name in
                '' | "${program%' (deleted)'}" | /memfd:* | /SYSV* | /anon_hugepage* | /dev/* | /\[aio\]* | /dmabuf* | /drm\ * | /i915* | \
                    /proc/* | /sys/*) continue ;;
                /usr/local/*) ;;
                /usr/* | /lib*) continue ;;
            esac
            case //$reached in *"//$name//"*) continue ;; esac
            ! on_disk "$name" || exit 0
        done
        exit 1
    )
}

on_disk() {
    mount_of "$1"
    case $class in layer) return 0 ;; volume) allowed "$point" ;; *) return 1 ;; esac
}

# count_deleted FD NAME ID SIZE BLOCKS
count_deleted() {
    case " $counted " in *" $3 "*) return 0 ;; esac
    counted="$counted $3"
    say "T $(($5 * 512 < $4 ? $5 * 512 : $4))"
}

# over_deleted FD NAME ID SIZE BLOCKS
over_deleted() {
    if [ "$4" = 0 ] || write_over "$1" "$4" "$5"; then
        keep "D $(($5 * 512 < $4 ? $5 * 512 : $4))"
    elif ! in_memory "$1" "$2"; then
        of_process failed "$2" "$why"
    fi
}

# in_memory FD NAME: whether a file is in memory, which is freed with the process.
in_memory() {
    case $2:$(stat -L -f -c %T "$1" 2>/dev/null) in /memfd:* | *:tmpfs | *:ramfs | *:hugetlbfs) return 0 ;; esac
    return 1
}

# of_process CODE PATH TEXT: an item about holder. One that is killed is not there in a later run, which cannot find it again.
of_process() {
    case $op:$held in
        plan:* | *" $holder "*) item "$1" 0 "$2" "$3" ;;
        *) if [ "$holder" = 1 ]; then item "$1" 0 "$2" "$3"; else lasting "$1" 0 "$2" "$3"; fi ;;
    esac
}

# end_processes stops all of the user's processes, so that none can start or write anything, overwrites what only they can still
# reach, and kills those that are not held at once: a shell that is asked to end writes its history first. Those that go on are put
# into told, and left out from then on.
end_processes() {
    for _ in 1 2 3 4 5; do
        stopped='' halted=
        while :; do
            look_at_processes
            new=
            for p in $(doomed; on_hold); do case " $stopped $halted $told" in *" $p "*) ;; *) new="$new $p" ;; esac; done
            [ -n "$new" ] || break
            for p in $new; do
                serves "$p" || kill -STOP "$p" 2>/dev/null
                case $held in *" $p "*) halted="$halted $p" ;; *) stopped="$stopped $p" ;; esac
            done
        done
        [ -n "$stopped$halted" ] || break
        for p in $stopped $halted; do eval "about_$p='$(describe "$p")'"; done
        for p in $stopped; do deleted "$p" over_deleted; done
        for p in $halted; do if stays_in_use; then deleted "$p" :; else deleted "$p" over_deleted; fi; done
        for p in $halted; do eval "keep \"P $p yes \$about_$p\""; done
        for p in $stopped; do kill -KILL "$p" 2>/dev/null; done
        settle
        told="$told$halted "
        for p in $stopped; do
            case "$left$told" in *" $p "*) continue ;; esac
            eval "keep \"P $p no \$about_$p\""
        done
    done
    look_at_processes
    for p in $(doomed); do
        case $told in *" $p "*) continue ;; esac
        told="$told$p "
        item running 0 "$(cat "/proc/$p/comm" 2>/dev/null)" "process $p cannot be ended, or comes back"
    done
}

# settle waits for the end of what was killed, and sets left to what is still there.
settle() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        look_at_processes
        left=" $({ doomed; on_hold; } | tr '\n' ' ')"
        for p in $stopped; do case $left in *" $p "*) moment; continue 2 ;; esac; done
        break
    done
}

# libraries PROGRAM: prints the loader that a program names, and the libraries that the loader finds for it, as ldd does. The
# program itself does not run. See ld.so(8); musl's loader has the same option.
libraries() {
    loader=$(head -c 4096 "$1" 2>/dev/null | tr '\0' '\n' | sed -n '/^\/.*ld.*\.so/{p;q;}')
    [ -f "${loader:-/}" ] || return 0
    echo "$loader"
    "$loader" --list "$1" 2>/dev/null | sed -n 's|^[[:space:]]*\(.* => \)\{0,1\}\(/.*\) (0x[0-9a-f]*)$|\2|p'
}

# ids prints the files that a list names, one a line, as DEV:INODE.
ids() {
    set --
    while IFS= read -r name; do
        set -- "$@" "$name"
        [ $# -lt 100 ] || { stat -L -c %d:%i "$@" 2>/dev/null; set --; }
    done
    [ $# = 0 ] || stat -L -c %d:%i "$@" 2>/dev/null
}

# server_parts prints what else a login is let in by, under the paths of the distributions and where the parts are that run now.
server_parts() {
    {
        printf '/usr/%s\n' lib/openssh lib/ssh libexec libexec/openssh libexec/ssh
        for p in $spared; do readlink "/proc/$p/exe" 2>/dev/null; done | sed -n 's|/sshd[^/]*$||p'
    } | sort -u | sed 's|.*|&/sshd-session &/sshd-auth|'
}

# needed_programs lists what the script runs, and what the next login and its far side do, with their libraries.
needed_programs() {
    # shellcheck disable=SC2046 # words
    for name in /bin/sh "$SHELL" /usr/sbin/sshd $(server_parts) cat chattr chmod chown cksum cut dd find grep gzip head \
        id ls lsattr md5sum mkdir mv od readlink rm rmdir sed sha256sum sh sleep sort stat tr uname uniq wc; do
        name=$(command -v "$name" 2>/dev/null)
        case $name in /*) readlink -f "$name" ;; esac
    done | sort -u | while IFS= read -r name; do
        echo "$name"
        # A library of the image is none to be wiped, nor is one of a package, of which dpkg knows.
        inlayer=yes
        if [ "$packages" = no ] && [ -d /var/lib/dpkg/info ] && ! fresh "$(stat -c "$stamp" "$name")"; then continue; fi
        libraries "$name"
    done | sort -u
}

# read_only prints the descriptors that PID 1 has for reading alone, whose flags, in octal, end so; see proc_pid_fdinfo(5).
read_only() {
    set +f
    for fd in /proc/1/fdinfo/*; do
        case $(sed -n 's/^flags:[^0-9]*//p' "$fd" 2>/dev/null) in *[04]) echo "/proc/1/fd/${fd##*/}" ;; esac
    done
    set -f
}

# in_use sets used to the files that the connection runs on, as DEV:INODE: programs, libraries, and what is open.
in_use() {
    look_at_processes
    : "${programs:=$(needed_programs | ids)}" # they stay what they are
    used=$({
        for p in $spared; do
            set +f
            set -- "/proc/$p/exe" "/proc/$p/fd"/*
            set -f
            # Its log may be the user's, and may go. What it only reads may be the script that it runs.
            # shellcheck disable=SC2046 # numbers
            [ "$p" != 1 ] || set -- /proc/1/exe $(read_only)
            stat -L -c %d:%i "$@" 2>/dev/null
            # Where a path is that of another file by now, as after an upgrade, the next login maps that one.
            sed -n 's|^[^/]*\(/.*\)$|\1|p; s| (deleted)$||p' "/proc/$p/maps" 2>/dev/null | sort -u | ids
        done
        # Linux lets nobody write to a program that runs.
        [ "$processes" = no ] || for p in $(on_hold); do
            place_of "$p"
            stat -L -c %d:%i "$place/exe" 2>/dev/null
            # What serves a file system goes on, and needs its libraries.
            ! serves "$p" || sed -n 's|^[^/]*\(/.*\)$|\1|p' "/proc/$p/maps" 2>/dev/null | sort -u | ids
        done
        echo "$programs"
    } | sort -u | tr '\n' ' ')
    printf '%s' "$used" >"$work/used" # for other shells: it may be more than fits into an environment
}
