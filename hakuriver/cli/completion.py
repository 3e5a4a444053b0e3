"""`hakuriver completion`: what makes a shell complete our commands; what it then asks is answered in completing.py."""

from __future__ import annotations

import click

from hakuriver.cli.common import out
from hakuriver.cli.frame import DOTTED, OTHER_PROGRAMS, Command

PROGRAMS = ("hakuriver", *(f"hakuriver.{noun}" for noun in DOTTED), *OTHER_PROGRAMS)

# bash takes n1:0 and --target=n1 apart; the words are put together again, and what it has already is left out.
_BASH = r"""# Completion of hakuriver for bash (4.4 or newer); bash-completion is not needed.
_hakuriver_complete() {
    local kind value _help word glue='' prefix='' index
    local -a words=()
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ $index -gt 1 && ( $glue || $word =~ ^[:=]+$ ) ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        [[ $word =~ ^[:=]+$ ]] && glue=1 || glue=''
    done
    word=${words[-1]}
    [[ $COMP_WORDBREAKS == *:* ]] && prefix=${word%"${word##*[:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind value _help; do
        case $kind in
            plain) COMPREPLY+=("${value#"$prefix"}") ;;
            file) compopt -o default 2>/dev/null ;;
            dir) compopt -o dirnames 2>/dev/null ;;
            command) mapfile -t COMPREPLY < <(compgen -c -- "$word") ;;
        esac
    done < <(_HAKURIVER_COMPLETE=1 "${words[0]/#\~/$HOME}" "${words[@]:1}" 2>/dev/null)
}
complete -o nosort -F _hakuriver_complete @PROGRAMS@
"""

_ZSH = r"""#compdef @PROGRAMS@
# Completion of hakuriver for zsh.
_hakuriver() {
    local row
    local -a cells plain
    for row in "${(@f)$(_HAKURIVER_COMPLETE=1 ${(Q)words[1]} "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        cells=("${(@ps:\t:)row}")
        case ${cells[1]} in
            plain) plain+=("${cells[2]//:/\\:}:${cells[3]}") ;;
            file) [[ $PREFIX == --*=* ]] && compset -P 1 '*='; _files ;;
            dir) [[ $PREFIX == --*=* ]] && compset -P 1 '*='; _files -/ ;;
            command) _command_names -e ;;
        esac
    done
    (( $#plain )) || return
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    _describe -V hakuriver plain
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _hakuriver "$@"
else
    compdef _hakuriver @PROGRAMS@
fi
"""

_FISH = r"""# Completion of hakuriver for fish (3.1 or newer).
function __hakuriver_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' $current)
    for row in (env _HAKURIVER_COMPLETE=1 $words[1] $words[2..-1] $current 2>/dev/null)
        set -l cells (string split \t -- $row)
        switch $cells[1]
            case plain
                printf '%s%s\t%s\n' "$option" $cells[2] $cells[3]
            case file
                __fish_complete_path $current
            case dir
                __fish_complete_directories $current
            case command
                __fish_complete_command
        end
    end
end
for program in @PROGRAMS@
    complete --no-files --keep-order --command $program --arguments '(__hakuriver_complete)'
end
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """What a shell is to read, for all our programs."""
    return _SCRIPTS[shell].replace("@PROGRAMS@", " ".join(PROGRAMS))


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(_SCRIPTS)), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options, nodes, environments and ids when Tab is pressed.

    It is for `hakuriver`, for the programs with a dot, and for `hakurun`. Nodes, environments and jobs are those that
    the host has told; without a share there are none, and nothing is said.

    \b
    Example:
      eval "$(hakuriver completion bash)"              # in ~/.bashrc
      source <(hakuriver completion zsh)               # in ~/.zshrc, after compinit
      hakuriver completion fish | source               # in ~/.config/fish/config.fish
    """
    out(script(shell).rstrip("\n"))
