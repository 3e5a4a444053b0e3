#!/bin/sh
# A client of the river in nothing but sh and coreutils, written from spool_layout.md alone.
#
#   shell_client.sh SHARED_DIR COMMAND [ARG]...
#
# Submits COMMAND as a job, waits for its end, prints what it wrote and exits as it did.
# Exit status: the job's; 125 if it was refused; 2 usage or no river.
#
# BUGS: control characters other than newline and tab in an argument are passed on as they are, and refused.

set -u
[ $# -ge 2 ] || { echo "usage: $0 SHARED_DIR COMMAND [ARG]..." >&2; exit 2; }
share=$1
shift
newline='
'
tab=$(printf '\t')

die() { echo "$0: $2" >&2; exit "$1"; }

# One argument as a JSON string.
quote() {
    rest=$1
    quoted=
    while [ -n "$rest" ]; do
        tail=${rest#?}
        first=${rest%"$tail"}
        case $first in
            \\ | \") quoted=$quoted\\$first ;;
            "$newline") quoted=$quoted\\n ;;
            "$tab") quoted=$quoted\\t ;;
            *) quoted=$quoted$first ;;
        esac
        rest=$tail
    done
    printf '"%s"' "$quoted"
}

# A document on one line without spaces between its tokens; texts in it lose theirs too, which hurts nobody here.
squeezed() { cat "$1" 2>/dev/null | tr -d ' \n'; }

# The highest position among a job's snapshots in one directory, as "<seq> <path>".
newest() {
    for name in $(ls "$1" 2>/dev/null); do
        case $name in
            "$id".*.json)
                position=${name#"$id".}
                position=${position%.json}
                echo "${position#*-} $1/$name"
                ;;
        esac
    done
}

# --- submit: temporary name, sync, rename, sync

[ -f "$share/river.json" ] || die 2 "$share holds no river.json: is it mounted?"

id=$(date +%s%3N)$(od -An -N4 -tu4 /dev/urandom | tr -d ' ' | tail -c 8 | head -c 7)
while [ ${#id} -lt 20 ]; do id=${id}0; done

json=
for argument in "$@"; do json=$json${json:+, }$(quote "$argument"); done
temporary=$share/incoming/.$id.json.$$.tmp
printf '{"id": "%s", "command": [%s]}\n' "$id" "$json" >"$temporary" || die 2 "cannot write $temporary"
sync "$temporary" || die 2 "cannot sync $temporary"
mv "$temporary" "$share/incoming/$id.json" || [ ! -e "$temporary" ] || die 2 "cannot rename $temporary"
sync "$share/incoming"
echo "$id" >&2

# --- wait: list first, then the name

while ls "$share/receipts" >/dev/null; [ ! -f "$share/receipts/$id.json" ]; do sleep 0.1; done
case $(squeezed "$share/receipts/$id.json") in
    *'"outcome":"refused"'*)
        cat "$share/receipts/$id.json" >&2
        exit 125
        ;;
esac

bucket=$(printf %s "$id" | cut -c1-5)/$(printf %s "$id" | cut -c6-8)
while :; do
    found=$({ newest "$share/jobs/active/$bucket"; newest "$share/jobs/done/$bucket"; } | sort | tail -n 1)
    if [ -n "$found" ]; then
        snapshot=$(squeezed "${found#* }")
        code=${snapshot#*'"exit_code":'}
        code=${code%%,*}
        # gone meanwhile: the next listing shows a newer one
        [ -z "$snapshot" ] || [ "$code" = null ] || break
    fi
    sleep 0.2
done

# --- what it wrote, whole by now; a file is there if a byte was

ls "$share/task_outputs" "$share/task_errors" >/dev/null
if [ -f "$share/task_outputs/$id.out" ]; then cat "$share/task_outputs/$id.out"; fi
if [ -f "$share/task_errors/$id.err" ]; then cat "$share/task_errors/$id.err" >&2; fi
exit "$code"
