# The far side of a wipe as a shell script, for machines where the helper program cannot run: the same rules, by the tools
# that the machine has. POSIX only. Names of files are never parsed from text: find hands them over as arguments, and what
# is said of them is in hex. No exit status is trusted where the result can be looked at. A lost connection kills nothing
# (SIGPIPE is ignored), so that no shell dies between what it has written down and what it does.
#
# This file, overwrite.sh and files.sh are read by the main shell and by those that find starts; the rest is the main shell's.
# Variables: work (this run's own directory) below dir (that of all runs), op, since (when the container was made, in
# seconds or, where stat can tell, nanoseconds), packages, swept (yes after the first pass), me (this run). In a list of
# paths a double slash, which no clean path holds, ends each.

[ ! -s "$work/used" ] || used=$(cat "$work/used")

say() { printf 'vw1 %s\n' "$*" || : >"$work/stop"; }

# keep LINE: says it, and writes it down for a run that goes on after this one. The mark at its end tells a whole line.
keep() {
    printf 'vw1 %s ;\n' "$*" >>"$dir/journal"
    say "$*"
}

# hex TEXT: prints it, cut so that a line with one of them fits into what is written to a pipe at once.
hex() {
    printf '%.1700s' "$1" | od -An -v -tx1 | tr -d ' \n'
    [ ${#1} -le 1700 ] || printf e280a6
}

# note LINE: says what a plan only says, and a run writes down too.
note() { if [ "$op" = plan ]; then say "$*"; else keep "$*"; fi; }

# item CODE GROUP PATH [TEXT].
item() { note "I $(item_words "$@")"; }
item_words() { printf '%s' "$1 $2 $(hex "$3") $(hex "$(printf %.200s "$4")")"; }

# lasting CODE GROUP PATH [TEXT]: an item that no later run can find again.
lasting() { keep "L $(item_words "$@")"; }

# tell says an item in the first pass only: what is still so later is known by then.
tell() { [ "$swept" = yes ] || item "$@"; }

# secret RULE PATH SIZE: names a place of secrets that is not empty, if that is what the rule is for.
secret() {
    case $flags in *s*) ;; *) return 0 ;; esac
    [ "$3" != 0 ] || return 0
    note "S $1 $(hex "$2")"
}

# going: whether this run is to go on: nobody has stopped it, and no later run has taken its place.
going() {
    [ ! -e "$work/stop" ] || return 1
    [ "$op" != plan ] || return 0
    read -r owner 2>/dev/null <"$dir/owner" && [ "$owner" = "$me" ]
}

# moment waits for a part of a second, or for one where sleep knows no parts.
moment() { sleep 0.2 2>/dev/null || sleep 1; }

gone() { [ ! -e "$1" ] && [ ! -L "$1" ]; }

# within LIST PATH: whether PATH is in the list, or lies below one that is.
within() {
    above=$2
    while [ -n "$above" ]; do
        case //$1 in *"//$above//"*) return 0 ;; esac
        above=${above%/*}
    done
    case //$1 in *"/////"*) return 0 ;; esac # the root
    return 1
}

# real PATH: sets result to the path without links, or fails.
real() {
    result=$(readlink -f "$1" 2>/dev/null && echo .) || return 1
    result=${result%??}
    [ -n "$result" ] && [ -e "$result" ]
}

# quoted TEXT: sets result to TEXT as a word for eval.
quoted() {
    result=\'$1\'
    case $1 in *\'*)
        result=\'$(printf '%s.' "$1" | sed "s/'/'\\\\''/g")
        result=${result%.}\'
        ;;
    esac
}

# pattern PATH: sets result to a word for eval that find takes for a pattern of PATH alone.
pattern() {
    case $1 in
        *[][*?\\]*)
            result=$(printf '%s.' "$1" | sed 's/[][*?\\]/\\&/g')
            quoted "${result%.}"
            ;;
        *) quoted "$1" ;;
    esac
}
