# How the data of a file is overwritten, and how a name is removed.

# part FILE BLOCK: the checksum of one MiB.
part() { dd if="$1" bs=1048576 skip="$2" count=1 2>/dev/null | $sum; }

# write_over FILE SIZE BLOCKS: overwrites the data once with random bytes, in place, and reads it back: all of it up to 1 MiB,
# samples of more. Where less is allocated than the size, parts that are all zeros are left out, so that holes stay. Sets why
# when it fails.
write_over() {
    why='it cannot be overwritten'
    if [ "$2" -le 1048576 ]; then
        dd if="$work/random" of="$1" bs="$2" count=1 conv=notrunc,fsync 2>"$work/error" || return 1
        why='what is read back is not what was written'
        [ "$(dd if="$1" bs="$2" count=1 2>/dev/null | $sum)" = "$(dd if="$work/random" bs="$2" count=1 2>/dev/null | $sum)" ]
        return
    fi
    full=$(($2 / 1048576)) rest=$(($2 % 1048576)) k=0 checked=
    if [ $(($3 * 512)) -ge "$2" ]; then
        { while [ $k -lt $full ]; do cat "$work/random" && k=$((k + 1)) || break; done; head -c $rest "$work/random"; } |
            dd of="$1" bs=65536 conv=notrunc,fsync 2>"$work/error" || return 1
        checked="0 $((full / 2)) $((full - 1))"
    else
        write_sparse "$1" || return 1
    fi
    why='what is read back is not what was written'
    for k in $checked; do [ "$(part "$1" "$k")" = "$block" ] || return 1; done
    [ $rest = 0 ] || [ "$(part "$1" $full)" = "$(head -c $rest "$work/random" | $sum)" ]
}

# write_sparse FILE: the parts of a file with holes. Variables: full, rest, k; it sets checked.
write_sparse() {
    zeros=$(dd if=/dev/zero bs=1048576 count=16 2>/dev/null | $sum)
    zero=$(dd if=/dev/zero bs=1048576 count=1 2>/dev/null | $sum)
    while [ $k -lt $full ]; do
        if [ $((k % 16)) = 0 ] && [ "$(dd if="$1" bs=1048576 skip=$k count=16 2>/dev/null | $sum)" = "$zeros" ]; then
            k=$((k + 16))
            continue
        fi
        if [ "$(part "$1" $k)" != "$zero" ]; then
            dd if="$work/random" of="$1" bs=1048576 seek=$k count=1 conv=notrunc 2>"$work/error" || return 1
            checked=$k
        fi
        k=$((k + 1))
    done
    head -c $rest "$work/random" | dd of="$1" bs=1048576 seek=$full conv=notrunc,fsync 2>"$work/error"
}

# drop COMMAND NAME: removes a name with COMMAND, after it was given another of the same length that says nothing.
drop() {
    parent=${2%/*} base=${2##*/}
    number=$((${number:-0} + 1))
    neutral=$parent/$(printf "%0${#base}d" $number)
    if gone "$neutral" && mv "$2" "$neutral" 2>/dev/null && ! gone "$neutral"; then
        $1 "$neutral" 2>"$work/error"
        gone "$neutral" && return # what has taken the name meanwhile is met in a later pass
        gone "$2" && mv "$neutral" "$2" 2>/dev/null
        return 1
    fi
    $1 "$2" 2>"$work/error"
    gone "$2"
}
