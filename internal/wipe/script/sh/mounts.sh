# The mounts of the container, and what each means to a wipe: layer (the container's own file system), memory, volume (a directory
# of the machine, which may outlive the container), bound (a single file of the machine), pseudo (the kernel's own).

# unescape PATH: sets result to a path of mountinfo without its \040.
unescape() {
    result=$1
    case $1 in *\\*)
        result=$(printf '%b.' "$(printf '%s' "$1" | sed 's/\\\([0-7][0-7][0-7]\)/\\0\1/g')")
        result=${result%.}
        ;;
    esac
}

# look_at_mounts writes the mounts down, one a line: class, read-only, type, path as in mountinfo. It sets points to their paths,
# as words for eval and as a list.
look_at_mounts() {
    points='' point_words=''
    while read -r _ _ _ from at options rest; do
        unescape "$at"
        type=${rest#*- }
        super=${type#* }
        super=${super#* }
        type=${type%% *}
        ro=no
        case ,$options, in *,ro,*) ro=yes ;; esac
        case ,$super, in *,ro,*) ro=yes ;; esac
        kind=volume
        case $type:$from in
            tmpfs:/ | ramfs:/) kind=memory ;; # and not a directory of the machine's own memory
        esac
        case $type in
            proc | sysfs | cgroup | cgroup2 | devpts | mqueue | devtmpfs | debugfs | tracefs | securityfs | configfs | pstore | bpf | nsfs | \
                binfmt_misc | efivarfs | fusectl | hugetlbfs | autofs | rpc_pipefs) kind=pseudo ;;
        esac
        case $result in
            /) kind=layer ;;
            /proc | /proc/* | /sys | /sys/*) kind=pseudo ;;
            *) [ -d "$result" ] || [ $kind = pseudo ] || ended_server "$result" || kind=bound ;;
        esac
        [ $kind != memory ] || ! of_machine "$result" || kind=volume
        printf '%s\n' "$kind $ro $type $at" # and not echo, which undoes escapes in some shells
        case //$points in *"//$result//"*) continue ;; esac
        points="$points$result//"
        quoted "$result"
        point_words="$point_words $result"
    done </proc/self/mountinfo >"$work/mounts"
}

# served TYPE: whether a program serves the file system, see fuse(4).
served() { case $1 in fuse | fuseblk | fuse.*) ;; *) return 1 ;; esac; }

# ended_server PATH: whether the file system of type there cannot be looked at, since the program that serves it has ended.
ended_server() { served "$type" && gone "$1"; }

# of_machine PATH: whether memory is the machine's, of which others may have something: it is older than the container, or the
# shared memory of the machine's own processes.
of_machine() {
    [ "$1" != /dev/shm ] || ! shares_ipc || return 0
    born=$(stat -c %W "$1" 2>/dev/null)
    case $born in '' | 0 | *[!0-9]*) return 1 ;; esac
    [ "$born" -lt "$seconds" ]
}

# mount_of PATH: sets class, frozen (read-only), fstype and point to those of its mount. Of several on one path the last is on top.
mount_of() {
    class=pseudo frozen=yes fstype='' point=
    while read -r kind ro type at; do
        case $at in *\\*) unescape "$at" && at=$result ;; esac
        case ${1%/}/ in "${at%/}"/*) [ ${#at} -lt ${#point} ] || class=$kind frozen=$ro fstype=$type point=$at ;; esac
    done <"$work/mounts"
}

# allowed POINT: whether the volume at POINT may be wiped.
allowed() {
    for volume in $volumes_hex; do [ "$volume" != "$(hex "$1")" ] || return 0; done
    return 1
}

# tell_volumes says them for the plan.
tell_volumes() {
    eval "set -- $point_words"
    for name; do
        mount_of "$name"
        [ $class != volume ] || say "V $frozen $(hex "$fstype") $(hex "$point")"
    done
}
