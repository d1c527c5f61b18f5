# What becomes of each name that a rule reaches. Variables: group, rule and flags of the rule, inlayer (yes on the container's
# own file system), frozen (yes where nothing can be written), used (files that the connection runs on, as DEV:INODE), and
# the lists points (of mounts), homes and standing. FLAGS hold s (secrets), l (login) and c (a rule for what was changed).

# fresh CTIME: whether a file is of the container and not of its image.
fresh() {
    [ "$inlayer" = yes ] || return 0
    case $1 in
        *.*) [ "${1%.*}${1#*.}" -ge "$since" ] ;;
        *) [ "$1" -ge "$since" ] ;;
    esac
}

# login PATH: whether a login needs it, and no rule for logins takes it.
login() {
    case $flags in *l*) return 1 ;; esac
    within "$needed" "$1"
}

# unguarded NAME: takes the attributes against a change off if possible, and sets code to why the name is still there otherwise.
unguarded() {
    code=failed
    attributes=$(lsattr -d "$1" 2>/dev/null)
    case ${attributes%% *} in *[ia]*) code=immutable ;; esac
    chattr -i -a "$1" 2>/dev/null
}

# writable FILE: whether it can be opened for writing, the attributes against that taken off if possible.
writable() {
    code=failed
    gone "$1" && return 1
    (: <>"$1") 2>/dev/null && return
    unguarded "$1"
    # Where anybody may write, the kernel lets nobody open what is another's in the way that a shell and dd open files; see
    # protected_regular in proc_sys_fs(5).
    chown "$(id -u)" "$1" 2>/dev/null
    ! gone "$1" && (: <>"$1") 2>/dev/null
}

# installed FILE…: sets owned to those of the files that are as dpkg has installed them, one a line, as dpkg names them. What
# stat says of them is on descriptor 4.
installed() {
    owned=
    case $packages:$flags in no:*c*) ;; *) return 0 ;; esac
    [ -d /var/lib/dpkg/info ] && command -v md5sum >/dev/null 2>&1 || return 0
    while read -r ctime _ <&4; do
        name=$1
        shift
        if fresh "$ctime"; then case $name in /usr/* | /bin/* | /sbin/* | /lib*) set -- "$@" "$name" ;; esac fi
    done
    [ $# -gt 0 ] || return 0
    set +f
    owned=$({
        # The system's directories may be links into /usr, under either name of which a package may know the file.
        md5sum "$@" 2>/dev/null | sed -n 's|^\([0-9a-f]\{32\}\)  /|\1  |p' | sed 'p; s|  usr/|  |' | sort -u
        cat /var/lib/dpkg/info/*.md5sums 2>/dev/null | sort -u
    } | sort | uniq -d | cut -c35-)
    set -f
}

# packaged FILE: whether it is the package manager's, and public.
packaged() {
    case $flags:$packages in *c*:no) ;; *) return 1 ;; esac
    case $1 in /var/lib/dpkg/* | /var/lib/apt/*) return 0 ;; esac
    case $newline$owned$newline in *"$newline${1#/}$newline"* | *"$newline${1#/usr/}$newline"*) return 0 ;; esac
    return 1
}

# mark PATH: prints it as a word.
mark() { printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n'; }

# failed CODE PATH TEXT: says why a name is still there, and remembers it.
failed() {
    printf '%s\n' "$(mark "$2")" >>"$work/failed"
    item "$1" "$group" "$2" "$3"
}

# told PATH: whether it was said why a name is still there.
told() { [ -s "$work/failed" ] && known "$work/failed" "$(mark "$1")"; }

# missed PATH TEXT: tells of what could not be looked at, once.
missed() { told "$1" || failed failed "$1" "$2"; }

# known FILE ID: whether a list of files holds ID.
known() { [ -s "$1" ] && grep -q -x "$2" "$1"; }

# one CTIME DEV INODE LINKS SIZE BLOCKS FILE: what becomes of a regular file.
one() {
    going || return 0
    ctime=$1 id=$2:$3 links=$4 size=$5 blocks=$6 file=$7
    if ! fresh "$ctime"; then
        case $flags in *c*) return 0 ;; esac
        tell image "$group" "$file"
        [ "$swept" = yes ] || secret "$rule" "$file" "$size"
        return 0
    fi
    case " $used " in *" $id "*)
        tell in-use "$group" "$file"
        [ "$swept" = yes ] || secret "$rule" "$file" "$size"
        return 0
        ;;
    esac
    if [ "$links" -gt 1 ] && known "$work/keepids" "$id"; then
        tell kept "$group" "$file"
        [ "$swept" = yes ] || secret "$rule" "$file" "$size"
        return 0
    fi
    if login "$file"; then
        tell login "$group" "$file"
        return 0
    fi
    told "$file" && return 0
    if [ "$frozen" = yes ]; then
        tell read-only "$group" "$file"
        [ "$swept" = yes ] || secret "$rule" "$file" "$size"
        return 0
    fi
    if packaged "$file"; then
        more=$((${more:-0} + 1))
        [ $more -gt 20 ] || tell package "$group" "$file"
        return 0
    fi
    bytes=$((blocks * 512))
    [ $bytes -le "$size" ] || bytes=$size
    case $op in
        plan) secret "$rule" "$file" "$size"; say "C $group 1 $bytes" ;;
        again) item again "$group" "$file" ;;
        *) scrub ;;
    esac
}

# scrub overwrites and removes the file that one has found.
scrub() {
    : >"$work/met"
    if ! writable "$file"; then
        # What comes back under the name of one that is gone is another file.
        if gone "$file"; then item vanished "$group" "$file"; else failed "$code" "$file" 'it cannot be opened for writing'; fi
        return 0
    fi
    if known "$work/linked" "$id"; then
        # The last name takes its number with it, which another file can get.
        [ "$(stat -c %h "$file" 2>/dev/null)" != 1 ] || { grep -v -x "$id" "$work/linked" >"$work/rest"; mv "$work/rest" "$work/linked"; }
        further
        return 0
    fi
    secret "$rule" "$file" "$size"
    # Of a file that a login still needs the name goes, and the content when the login does.
    if [ "$links" -gt 1 ] && [ "${flags#*l}" = "$flags" ] && known "$work/entrance" "$id"; then
        further
        return 0
    fi
    if [ "$size" -gt 0 ]; then
        if ! write_over "$file" "$size" "$blocks" || [ "$(stat -c %s "$file" 2>/dev/null)" != "$size" ]; then
            failed failed "$file" "$why: $(head -c 200 "$work/error" 2>/dev/null)"
            return 0
        fi
    fi
    [ "$links" = 1 ] || echo "$id" >>"$work/linked"
    keep "F $group $bytes $id"
    drop 'rm -f' "$file" || failed failed "$file" 'its name cannot be removed'
}

# further removes a name without content of its own.
further() { if drop 'rm -f' "$file"; then keep "N 1"; else failed failed "$file" 'its name cannot be removed'; fi; }

# programs PATH: whether that is where programs and libraries are.
programs() {
    case $1/ in
        /dev/shm/*) return 1 ;;
        /usr/* | /bin/* | /sbin/* | /lib/* | /lib64/* | /etc/alternatives/* | /dev/*) return 0 ;;
    esac
    return 1
}

# of_system LINK: whether a link where programs are leads to what is the system's, too, as those of packages do. The text of any
# other is the user's.
of_system() {
    programs "$1" || return 1
    # What every container has in /dev: where it leads depends on who asks.
    case $(readlink "$1") in /proc/self/fd | /proc/self/fd/[012] | /proc/kcore) return 0 ;; esac
    real "$1" || return 1
    case $result/ in /etc/* | /var/lib/*) return 0 ;; esac
    programs "$result"
}

# link CTIME DEV INODE LINKS SIZE BLOCKS FILE: removes a link.
link() {
    going || return 0
    fresh "$1" || return 0
    file=$7
    ! within "$needed" "$file" || return 0
    case $flags in *c*) ! of_system "$file" || return 0 ;; esac
    target=$(stat -L -c %d:%i "$file" 2>/dev/null)
    case " $used " in *" ${target:-none} "*) return 0 ;; esac # a name of a program that is needed
    told "$file" && return 0
    case $op in
        plan) return 0 ;;
        again) item again "$group" "$file"; return 0 ;;
    esac
    : >"$work/met"
    further
}

# empty DIRECTORY.
empty() {
    set +f
    for name in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if ! gone "$name"; then
            set -f
            return 1
        fi
    done
    set -f
}

# folder CTIME DEV INODE LINKS SIZE BLOCKS DIRECTORY: removes an empty directory that was made in the container.
folder() {
    going || return 0
    fresh "$1" || return 0
    shift 6
    case //$standing$homes$points in *"//$1//"*) return 0 ;; esac
    ! within "$needed" "$1" || return 0
    empty "$1" || return 0
    if drop rmdir "$1" || { unguarded "$1" && drop rmdir "$1"; }; then
        keep "N 1"
        return 0
    fi
    # What has got a name again is met in a later pass.
    case $(cat "$work/error") in *'not empty'* | *busy* | *'No such file'*) return 0 ;; esac
    told "$1" || failed "$code" "$1" "$(head -c 200 "$work/error")"
}

# special CTIME DEV INODE LINKS SIZE BLOCKS FILE: tells of a FIFO, socket or device.
special() {
    fresh "$1" || return 0
    case $7 in /dev/*) ;; *) tell special "$group" "$7" ;; esac
}

# each FUNCTION FILE…: calls the function with what stat says of each file.
each() {
    call=$1 owned='' more=0
    shift
    format="$stamp %d %i %h %s %b"
    stat -c "$format" "$@" >"$work/stat" 2>/dev/null
    if [ "$(wc -l <"$work/stat")" -ne $# ]; then # some are gone: ask for each
        for name; do
            if ! stat -c "$format" "$name" >"$work/stat" 2>/dev/null; then
                # Of a path beyond PATH_MAX nothing can be said, not even that it is gone.
                [ ${#name} -lt 4096 ] && gone "$name" || missed "$name" 'it cannot be looked at'
                continue
            fi
            [ "$call" != one ] || installed "$name" 4<"$work/stat"
            read -r facts <"$work/stat"
            $call $facts "$name"
        done
    else
        [ "$call" != one ] || installed "$@" 4<"$work/stat"
        while read -r facts <&4; do
            $call $facts "$1" 4<&-
            shift
        done 4<"$work/stat"
    fi
    [ "$swept" = yes ] || [ $more -le 20 ] || note "M package $group $((more - 20))"
}
