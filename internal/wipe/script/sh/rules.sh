# What the rules name. places are those that have a rule already, keeps those that no rule reaches; place_words and keep_words
# are the same as words for eval.

remember() {
    places="$places$1//"
    quoted "$1"
    place_words="$place_words $result"
}

# spare learns what no rule reaches.
spare() {
    places='' place_words='' keeps='' keep_words='' told_keeps='' entered=
    while read -r name; do
        name=$(printf '%b.' "$name")
        spare_path "${name%.}"
    done <"$work/keep"
    stage=keeps
    kept_patterns
}

# spare_path PATH: that, and every link on the way, without which a later run would not find it.
spare_path() {
    each_on_way spare_one "$1"
    spare_one "${reached:-/}"
}

# each_on_way COMMAND PATH: calls it with every link on the way, and sets reached to the path without links.
each_on_way() {
    for_link=$1
    shift
    reached='' rest=$1/ links=0
    while [ -n "$rest" ]; do
        part=${rest%%/*} rest=${rest#*/}
        case $part in '' | .) continue ;; ..) reached=${reached%/*} && continue ;; esac
        if [ -L "$reached/$part" ] && [ $links -lt 40 ]; then
            links=$((links + 1))
            $for_link "$reached/$part"
            target=$(readlink "$reached/$part" && echo .)
            rest=${target%??}/$rest
            case $target in /*) reached= ;; esac
        else
            reached=$reached/$part
        fi
    done
}

spare_one() {
    keeps="$keeps$1//"
    quoted "$1"
    keep_words="$keep_words $result"
    find "$1" -type f -links +1 -exec stat -c %d:%i {} + 2>>"$work/unkept" >>"$work/keepids"
}

# rule NUMBER GROUP FLAGS TREE COMPONENT…: names files. A component is =TEXT, which may hold slashes, or ~PATTERN.
rule() {
    going || return 0
    rule=$1 group=$2 flags=-$3 tree=$4
    shift 4
    case $stage:$flags in logins:*l*) ;; logins:* | *:*l*) return 0 ;; esac
    expand '' "$@"
}

# expand PATH COMPONENT…: goes through what the components match below PATH.
expand() {
    case $# in 1)
        match "$1"
        [ "$tree" = yes ] || { match "$1-wal"; match "$1-shm"; match "$1-journal"; } # of SQLite
        return
        ;;
    esac
    case $2 in =*)
        step "$1/${2#=}" "$@"
        return
        ;;
    esac
    set +f
    # Here a * matches a leading dot, too.
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        set -f
        case ${entry##*/} in ${2#?}) gone "$entry" || step "$entry" "$@" ;; esac
    done
    set -f
}

# step NEW OLD COMPONENT COMPONENT…: goes on below NEW with the components that are left.
step() {
    entry=$1
    shift 3
    expand "$entry" "$@"
}

# match PATH: what a rule names by it.
match() {
    gone "$1" && return
    [ $stage != keeps ] || { spare_path "$1"; return; }
    [ $stage != logins ] || each_on_way way "$1"
    real "${1%/*}/" || return 0
    found=${result%/}/${1##*/}
    if [ -L "$found" ]; then
        match_link "$found"
    elif [ ! -d "$found" ] || [ "$tree" = yes ]; then # what is in a directory is of whatever rule takes it
        root "$found"
    fi
}

# match_link LINK: it goes, and the place that it leads to belongs to the rule, unless that is the system's.
match_link() {
    leads=
    real "$1" && leads=$result
    root "$1"
    if [ -f "$leads" ]; then
        root "$leads"
    elif [ -d "$leads" ]; then
        mount_of "$leads"
        if [ "$tree" = yes ] && [ $class != pseudo ]; then
            case //$system in *"//$leads//"*) ;; *) holds_more "$leads" || { root "$leads"; return; } ;; esac
        fi
        tell link "$group" "$1"
        secret_left "$leads"
    fi
}

# holds_more DIRECTORY: whether it holds more than the secrets that a link to it is named for: all work, or the home of a user.
holds_more() {
    case $flags in *s*) ;; *) return 1 ;; esac
    case "//$homes/workspace///data//" in *"//$1/"*) return 0 ;; esac
    return 1
}

# way LINK: takes a link that leads to what a login needs, as where .ssh is one. It goes when that is gone.
way() {
    ! within "$places" "$1" || return 0
    remember "$1"
    quoted "$1"
    ways="$ways $rule $group $result"
}

# end_ways does to these links what becomes of them.
end_ways() {
    flags=-l tree=no
    eval "set -- $ways"
    while [ $# -gt 0 ]; do
        rule=$1 group=$2
        case $op in plan | finish) walk "$3" ;; esac
        shift 3
    done
}

# root PATH: takes a place without links for the rule, unless an earlier one has it.
root() {
    [ "$1" != / ] && ! within "$places" "$1" || return 0
    remember "$1"
    [ $stage != logins ] || entrance "$1"
    case $stage:$op in logins:run | logins:again) ;; *) walk "$1" ;; esac
}

# entrance PATH: notes which files with further names a login needs.
entrance() { find "$1" -type f -links +1 -exec stat -c %d:%i {} + 2>/dev/null >>"$work/entrance"; }

# walk ROOT: goes through a file, or a directory with all that is below it.
walk() {
    mount_of "$1"
    case $class in
        pseudo) return 0 ;;
        volume) allowed "$point" || { tell volume "$group" "$1"; secret_left "$1"; return 0; } ;;
    esac
    if [ "$class:$frozen:$point" = "memory:yes:$1" ]; then
        tell volume "$group" "$1"
        return 0
    fi
    if within "$keeps" "$1"; then
        tell kept "$group" "$1"
        secret_left "$1"
        return 0
    fi
    if [ $class = bound ]; then
        bound "$1"
    elif [ -L "$1" ]; then
        on_mount each link "$1"
    elif [ -d "$1" ] || [ "$class:$point" = "volume:$1" ]; then
        [ "$point" != "$1" ] || entered="$entered$1//"
        tree_at "$1"
        mounts_below "$1"
    elif [ -f "$1" ]; then
        on_mount each one "$1"
    else
        on_mount each special "$1"
    fi
}

# bound FILE: tells of one that is the machine's. What a login needs of such ones every container of Docker's has.
bound() {
    ! login "$1" || return 0
    tell volume "$group" "$1"
    secret_left "$1"
}

# secret_left PLACE: names a place of secrets that nobody goes into: they are to be rotated all the same.
secret_left() {
    [ "$swept" != yes ] && [ ! -L "$1" ] || return 0
    if [ -d "$1" ] || [ -f "$1" ] && [ -s "$1" ]; then secret "$rule" "$1" 1; fi
}

# on_mount COMMAND…: with what it has to know of the mount that mount_of has found.
on_mount() {
    inlayer=no
    [ $class != layer ] || inlayer=yes
    export group rule flags inlayer frozen
    "$@"
}

# mounts_below ROOT: those that may be wiped are gone through too.
mounts_below() {
    above_mounts=$1 closed=
    eval "set -- $point_words"
    for name; do
        case $name in "${above_mounts%/}"/?*) ;; *) continue ;; esac
        if within "$keeps" "$name" || within "$closed" "$name" || owned_below "$above_mounts" "$name"; then continue; fi
        mount_of "$name"
        case $class:$frozen in
            memory:no) enter_mount "$name" ;;
            volume:*) if allowed "$name"; then enter_mount "$name"; else refuse_mount "$name"; fi ;;
            memory:*) refuse_mount "$name" ;;
            bound:*) bound "$name" ;;
            *) closed="$closed$name//" ;;
        esac
    done
}

enter_mount() {
    entered="$entered$1//"
    tree_at "$1"
}

refuse_mount() {
    closed="$closed$1//"
    tell volume "$group" "$1"
    secret_left "$1"
}

# owned_below ROOT PATH: whether PATH is or is in a place below ROOT that an earlier rule has.
owned_below() {
    above=$2
    while [ "$above" != "$1" ] && [ -n "$above" ]; do
        case //$places in *"//$above//"*) return 0 ;; esac
        above=${above%/*}
    done
    return 1
}

# excluded ROOT: sets skip to the words by which find leaves out what is not the rule's below ROOT, and beside to those that do
# so where it goes from the bottom up.
excluded() {
    skip='' beside='' inside=$1
    exclude "$dir"
    eval "set -- $place_words"
    for name; do case $name in "${inside%/}"/?*) exclude "$name" ;; esac done
    eval "set -- $keep_words"
    for name; do
        case $name in "${inside%/}"/?*) ;; *) continue ;; esac
        exclude "$name"
        if gone "$name" || owned_below "$inside" "$name" || within "$told_keeps" "$name"; then continue; fi
        told_keeps="$told_keeps$name//"
        tell kept "$group" "$name"
        secret_left "$name"
    done
    eval "set -- $point_words"
    for name; do case $name in "${inside%/}"/?*) exclude "$name" ;; esac done
}

exclude() {
    pattern "$1"
    skip="$skip -path $result -prune -o"
    beside="$beside ! -path $result ! -path $result/\\*"
}

# complaint prints the first of those on its input, its reason first. Who complains has left a file out, unless that is gone, or
# another now, or on a file system whose server has ended.
complaint() {
    sed -n '/: No such file or directory$/d; /: Not a directory$/d; /: Too many levels of symbolic links$/d
        /: Transport endpoint is not connected$/d; /: Socket not connected$/d
        s/^\(.*\): \([^:]*\)$/\2: \1/; p; q'
}

# tree_at ROOT: a directory with all that is below it on one mount, which mount_of has found.
tree_at() {
    on_mount excluded "$1"
    [ "$class" != volume ] || [ -d "$1" ] || missed "$1" 'it cannot be looked at'
    quoted "$1"
    top=$result
    inner='. "$work/far.sh"; each "$@"'
    old='' other=
    [ "$flags:$class" != -c:layer ] || old=$newer
    # No -exec in parentheses, out of which busybox does not start the last of them.
    [ "$swept" = yes ] || other="-o $old \\( -type p -o -type s -o -type b -o -type c \\) -exec sh -c '$inner' sh special {} +"
    eval "find $top -xdev $skip $old -type f -exec sh -c '$inner' sh one {} + -o $old -type l -exec sh -c '$inner' sh link {} + $other" \
        2>"$work/complaint"
    complained=$(sed -n '/^find: /p' "$work/complaint" | complaint)
    [ -z "$complained" ] || missed "$1" "not all in it could be looked at: $complained"
    case $op in run | finish) eval "find $top -xdev -depth $beside $old -type d -exec sh -c '$inner' sh folder {} +" 2>/dev/null ;; esac
}

# changed NUMBER GROUP: everything that was made or changed in the container, on its layer and in memory.
changed() {
    going || return 0
    [ $stage = files ] || return 0
    rule=$1 group=$2 flags=-c
    eval "set -- $point_words"
    for at; do
        case //$entered in *"//$at//"*) continue ;; esac # by the rule of a tree
        ! within "$keeps" "$at" || continue
        mount_of "$at"
        case $class:$frozen in layer:* | memory:no) tree_at "$point" ;; esac
    done
}

# tell_absent tells of what a person has named and is not there.
tell_absent() {
    printf '%s' "$named" >"$work/named"
    while read -r name; do
        name=$(printf '%b.' "$name")
        ! gone "${name%.}" || item absent 0 "${name%.}"
    done <"$work/named"
}

# pass goes through all rules once, those of logins first: what they name is nobody else's.
pass() {
    spare
    ways=''
    # shellcheck disable=SC2046 # paths without anything that a shell knows
    find $(printf '%s' "$needed" | sed 's|//| |g') -type f -links +1 -exec stat -c %d:%i {} + 2>/dev/null >"$work/entrance"
    for stage in logins files; do
        [ $op:$stage = finish:files ] || rules
        [ $stage != logins ] || end_ways
    done
}
