"""``torchdeck completion``: the scripts that make a shell complete commands. They ask ``torchdeck __complete``."""

from __future__ import annotations

import argparse

_BASH = r"""# torchdeck: completion for bash
_torchdeck() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        [ -n "$line" ] && COMPREPLY+=("$line")
    done < <("${1/#\~/$HOME}" __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o nospace -F _torchdeck torchdeck
"""

_ZSH = r"""#compdef torchdeck
# torchdeck: completion for zsh
_torchdeck() {
    local line text about
    local -a whole whole_shown open open_shown home
    for line in "${(@f)$(${~words[1]} __complete zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}"; do
        text=${line%%$'\t'*} about=${line#*$'\t'}
        if [[ $text == ?'~'* ]]; then
            home+=("~${(q)text#??}")
        elif [[ $text == o* ]]; then
            open+=("${text#o}") open_shown+=("${text#o}${about:+  -- $about}")
        elif [[ -n $text ]]; then
            whole+=("${text#w}") whole_shown+=("${text#w}${about:+  -- $about}")
        fi
    done
    compadd -S '' -Q -a home
    compadd -S '' -l -d open_shown -a open
    compadd -l -d whole_shown -a whole
}
if [[ $funcstack[1] == _torchdeck ]]; then
    _torchdeck "$@"
else
    compdef _torchdeck torchdeck
fi
"""

_FISH = r"""# torchdeck: completion for fish
function __torchdeck_complete
    set -l words (commandline -opc)
    set -l command (string replace -r '^~/' "$HOME/" -- $words[1])
    set -l token (commandline -ct)
    $command __complete fish $words[2..-1] "$token" 2>/dev/null
end
complete -c torchdeck -f -a '(__torchdeck_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck completion``."""
    parser.add_argument("shell", choices=SCRIPTS, help="the shell")


def completion(options: argparse.Namespace) -> int:
    """Print the script."""
    print(SCRIPTS[options.shell], end="")
    return 0
