# The conversation: begin, then plan, run or finish. The rules are in a function that is made for each request, and the text of
# what other shells read in another.

refuse() {
    say "X $(hex "$1")"
    rm -rf "$work"
    exit 0
}

# begin makes sure of the machine, and takes the place of a run whose connection is lost.
begin() {
    trap '' PIPE
    set -f
    work=$dir
    eval "$(text)"
    mkdir "$dir" 2>/dev/null
    [ -d "$dir" ] && [ ! -L "$dir" ] && [ "$(stat -c '%a %u' "$dir" 2>/dev/null)" = "700 $(id -u)" ] ||
        refuse_place 'the directory of the journal cannot be made'
    exec 5<&0
    start_of $$
    me=$$.$result work=$dir/run.$$.$result
    mkdir "$work" 2>/dev/null || refuse_place 'there is no room for the journal'
    export work dir me op
    text >"$work/far.sh" 2>/dev/null
    [ "$(cat "$work/far.sh" 2>/dev/null)" = "$(text)" ] || refuse 'there is no room for the journal'
    probe
    [ "$op" = plan ] || claim
    printf '%s' "$keeps" >"$work/keep"
    for name in failed linked keepids unkept error; do : >"$work/$name"; done
    look_at_processes
    made
    look_at_mounts
    look_at_homes
    spare
    complained=$(complaint <"$work/unkept")
    [ -z "$complained" ] || refuse "look at what is to be kept: $complained"
    swept=no
    export swept packages newline points homes needed standing
    greet
    listen
}

refuse_place() {
    say "X $(hex "$1")"
    exit 0
}

# claim makes this the run that has the journal. The one before stops between two files when it sees that, and is killed if it
# does not.
claim() {
    former=
    read -r former 2>/dev/null <"$dir/owner"
    echo "$me" >"$work/owner"
    mv "$work/owner" "$dir/owner" && [ "$(cat "$dir/owner")" = "$me" ] || refuse 'the journal cannot be written'
    for patience in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 last; do
        case $former in *[!0-9.]* | '' | .* | *.*.*) break ;; esac
        start_of "${former%.*}"
        [ "$result" = "${former#*.}" ] || break
        [ $patience != last ] || end_former "${former%.*}"
        moment
    done
    set +f
    for name in "$dir"/run.*; do [ "$name" = "$work" ] || rm -rf "$name"; done
    set -f
}

# end_former PID: with all that it has started, which would go on writing.
end_former() {
    look_at_processes
    family=$(for p in $all; do ! descends "$p" "$1" || echo "$p"; done)
    # shellcheck disable=SC2086 # numbers
    kill -KILL $family 2>/dev/null
}

# greet says hello, and what runs before this one have done.
greet() {
    memory=no resumed=no
    case $(stat -f -c %T "$dir" 2>/dev/null) in tmpfs | ramfs) memory=yes ;; esac
    [ "$op" = plan ] || [ ! -s "$dir/journal" ] || resumed=yes
    say "H $memory $resumed"
    # Of a line that did not fit onto the disk nothing is taken.
    [ $resumed = no ] || sed -n '/vw1.*vw1/d; s/^\(vw1 .*\) ;$/\1/p' "$dir/journal"
    say J
}

# listen starts what says that the connection lives and finds out when it does not, and, for a run, what hears a word on the
# input, or its end, which is to stop between two files.
listen() {
    (
        trap 'kill $! 2>/dev/null; exit 0' TERM
        while [ ! -e "$work/stop" ]; do
            sleep 1 &
            wait $!
            say .
        done
    ) &
    heart=$!
    ear=
    [ "$op" != run ] || {
        (
            read -r _ <&5
            : >"$work/stop"
        ) &
        ear=$!
    }
    trap 'hush; give_back; say "R stopped"; exit 0' HUP INT TERM
}

hush() { kill $heart ${ear:-$heart} 2>/dev/null; }

# finished HOW: the last word of a run.
finished() {
    hush
    how=$1
    going || how=stopped
    give_back
    rm -rf "$work"
    say "R $how"
    exit 0
}

look_at_homes() {
    homes=
    while IFS=: read -r _ _ _ _ _ home _; do case $home in /*) homes="$homes$home//" ;; esac done </etc/passwd
}

# made sets since to when the container was made, seconds to the same in seconds, and stamp to what stat is asked for the time of a change.
made() {
    start_of 1
    boot=$(sed -n 's/^btime //p' /proc/stat)
    : >"$work/now"
    today=$(stat -c %Z "$work/now")
    started=
    [ -z "$result" ] || [ -z "$boot" ] || started=$((boot + result / 100))
    for when in '%.9W /' '%.9Z /.dockerenv' '%W /' '%Z /.dockerenv'; do
        since=$(stat -c "${when% *}" "${when#* }" 2>/dev/null)
        stamp=%Z
        case $since in *.*)
            since=${since%.*}${since#*.} stamp=%.9Z
            ;;
        esac
        case $since in '' | *[!0-9]* | 0*) since='' && continue ;; esac
        seconds=$since
        [ $stamp = %Z ] || seconds=${since%?????????}
        [ "$seconds" -gt $((${started:-seconds} + 3)) ] || break
        # A mark that is younger than the first process was touched later, as by a chown of everything. A birth that is was told by
        # a clock that was set back since: what was written by the right one looks older than the container.
        case $when in */.dockerenv) since='' && continue ;; esac
        [ "$seconds" -gt "$today" ] || since=''
        break
    done
    if [ -z "$since" ]; then
        [ -n "$started" ] || refuse 'the machine does not tell when the container was made'
        since=$((started - 3)) stamp=%Z seconds=$since
    fi
    # Where find can tell, it leaves out most of an image's files by itself.
    newer="-newerct @$((seconds - 1))"
    [ "$(find "$work/far.sh" -newerct @1 2>/dev/null)" = "$work/far.sh" ] && [ -z "$(find "$work/far.sh" -newerct @99999999999 2>/dev/null)" ] || newer=
    now=$(stat -c $stamp "$work/now")
    case $now in *.*) now=${now%.*}${now#*.} ;; esac
    [ "$now" -ge "$since" ] || refuse 'the container was made later than now: the clock of the machine has been set back'
    export since stamp
}

# probe refuses a machine whose tools do not do what is needed of them.
probe() {
    try=$work/try
    bad=
    printf 'abcdef' >"$try" && printf 'XY' | dd of="$try" bs=1 seek=2 conv=notrunc,fsync 2>/dev/null
    [ "$(cat "$try")" = abXYef ] || bad=dd
    [ "$(find "$work" -path "$work/o*" -prune -o -name try -type f -exec sh -c 'echo $#' sh {} +)" = 1 ] || bad=find
    [ "$(stat -c '%s %h' "$try")" = '6 1' ] || bad=stat
    [ "$(hex 'a /')" = 61202f ] || bad=od
    [ "$(head -c 3 "$try")" = abX ] || bad=head
    sum=
    for tool in cksum sha256sum md5sum; do
        one=$(printf x | $tool 2>/dev/null) && [ -n "$one" ] && [ "$one" = "$(printf x | $tool)" ] && [ "$one" != "$(printf y | $tool)" ] || continue
        sum=$tool
        break
    done
    export sum
    [ -n "$sum" ] || bad=cksum
    [ "$(readlink -f "$try")" = "$try" ] || bad=readlink
    mv "$try" "$try.2" 2>/dev/null && [ -e "$try.2" ] && gone "$try" || bad=mv
    rm -f "$try.2" 2>/dev/null && gone "$try.2" || bad=rm
    [ "$(printf 'a b' | sed 's/ /./')" = a.b ] || bad=sed
    [ "$(printf 'b\na\nb\n' | sort -u | tr '\n' ' ')" = 'a b ' ] || bad=sort
    printf 'a\nb\n' | grep -q -x -F b || bad=grep
    [ -z "$bad" ] || refuse "the machine's $bad does not do what is needed of it"
}

# random makes the block that files are overwritten with.
random() {
    dd if=/dev/urandom of="$work/random" bs=65536 count=16 2>/dev/null
    [ "$(stat -c %s "$work/random")" = 1048576 ] || refuse 'there is no room for random data, or there is none'
    block=$($sum <"$work/random")
    [ "$(dd if="$work/random" bs=4096 count=1 2>/dev/null | $sum)" != "$(dd if="$work/random" bs=4096 skip=1 count=1 2>/dev/null | $sum)" ] ||
        refuse 'the random data of the machine is not random'
    export block
}

plan() {
    in_use
    if [ "$processes" = yes ]; then
        counted=
        for p in $(doomed); do
            say "P $p no $(describe "$p")"
            deleted "$p" count_deleted
        done
        for p in $(on_hold); do
            say "P $p yes $(describe "$p")"
            if stays_in_use; then deleted "$p" :; else deleted "$p" count_deleted; fi
        done
        used_deleted
    fi
    tell_volumes
    tell_absent
    pass
    tr '\0\n' '\n\001' </proc/1/environ | while IFS= read -r line; do
        name=${line%%=*}
        case $name in *[!A-Za-z0-9_.-]* | '') ;; *) say "E $name" ;; esac
    done
    swap=$(sed -n 's/^SwapTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
    ipc=0
    [ "$processes" = no ] || if ipc_stays; then each_ipc tell_ipc "$ipc_why"; else ipc=$(each_ipc count_ipc | wc -l); fi
    say "W $((${swap:-0} * 1024)) $ipc"
    hush
    rm -rf "$work"
    rmdir "$dir" 2>/dev/null # unless a run has its journal there
    say "R planned"
    exit 0
}

run() {
    keep "B $hash"
    keep K
    helper_was_here
    random
    in_use
    told=' '
    [ "$processes" = no ] || { end_processes; remove_ipc; used_deleted; }
    look_at_mounts
    in_use
    say "G files"
    pass
    say "G sweep"
    swept=yes
    for _ in 1 2; do
        rm -f "$work/met"
        [ "$processes" = no ] || {
            end_processes
            stays_in_use || deleted 1 over_deleted # its files may have been removed under it, and it writes on
        }
        pass
        [ -e "$work/met" ] || finished done
    done
    [ "$processes" = no ] || end_processes
    op=again
    pass
    op=run
    finished done
}

# helper_was_here: of what the helper has told about processes that have ended no more is known than that there was something.
helper_was_here() {
    helpers=${dir%-sh}
    ! grep -q '"lasting":' "$helpers/journal" 2>/dev/null ||
        lasting failed 0 "$helpers" 'the helper has begun, and could not do something that the script cannot look for'
}

finish() {
    random
    in_use
    say "G login"
    pass
    going || finished stopped # what a later run has, it goes on with
    hush
    # Paths are in the journal.
    [ $memory = yes ] || write_over "$dir/journal" "$(stat -c %s "$dir/journal")" "$(stat -c %b "$dir/journal")"
    rm -rf "$dir"
    gone "$dir" || say "I $(item_words failed 0 "$dir" 'it cannot be removed')"
    look_at_processes # when the connection has ended, what it came through is not known any more
    onhold=$(on_hold)
    say "R finished"
    [ "$processes" = no ] || [ -z "$onhold" ] || stays_in_use || {
        parted
        # shellcheck disable=SC2086 # numbers
        kill -KILL $onhold 2>/dev/null
    }
    exit 0
}

# parted waits until the peer has got the last word and closed its side, or has had the time for it.
parted() {
    trap : HUP INT TERM
    (read -r _ <&5) &
    ear=$!
    (
        trap 'kill $! 2>/dev/null; exit 0' TERM
        sleep 10 &
        wait $!
        kill $ear 2>/dev/null
    ) &
    clock=$!
    wait $ear
    kill $clock 2>/dev/null
}
