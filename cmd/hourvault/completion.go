package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourvault/hourvault/internal/console"
)

func newCompletionCommand(a *app) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands, workspaces and snapshots in a shell",
		Long: `Print a script for a shell that completes commands and flags, and names of workspaces and snapshots from the
repository, where that answers fast.

Exit codes: 0 done; 2 wrong usage.`,
		Example: `  hourvault completion bash | sudo tee /etc/bash_completion.d/hourvault >/dev/null
  hourvault completion zsh > "${fpath[1]}/_hourvault"
  hourvault completion fish > ~/.config/fish/completions/hourvault.fish`,
		Args:      exactlyOne("shell"),
		ValidArgs: shells,
		RunE: func(command *cobra.Command, args []string) error {
			root, out := command.Root(), a.streams.Out
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			default:
				return usagef("no completion for %s: write bash, zsh, fish or powershell", console.Printable(args[0]))
			}
		},
	}
}

// completionPatience bounds what a shell waits for names from the repository.
const completionPatience = 3 * time.Second

// completeWorkspaces completes up to most positional arguments with names of workspaces; 0 is no bound. Whatever goes wrong
// there is nothing to complete.
func (a *app) completeWorkspaces(most int) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(command.Context(), completionPatience)
		defer cancel()
		var names []cobra.Completion
		a.withWorkspaces(ctx, func(workspace namedWorkspace) {
			// A name that a shell cannot take as it is helps nobody.
			if console.Printable(workspace.name) == workspace.name {
				names = append(names, workspace.name)
			}
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSnapshots completes a flag with the snapshots of the workspace in the first argument, newest first.
func (a *app) completeSnapshots(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	if len(args) != 1 {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(command.Context(), completionPatience)
	defer cancel()
	var completions []cobra.Completion
	a.withWorkspaces(ctx, func(workspace namedWorkspace) {
		if !workspace.isCalled(args[0]) {
			return
		}
		ids, err := workspace.SnapshotIDs(ctx)
		if err != nil {
			return
		}
		for _, id := range slices.Backward(ids) {
			completions = append(completions, id.String())
		}
	})
	return completions, directive
}

// withWorkspaces calls use for each workspace of the repository while that is open; for none when anything goes wrong.
func (a *app) withWorkspaces(ctx context.Context, use func(namedWorkspace)) {
	loaded, err := a.loadConfig()
	if err != nil {
		return
	}
	repo, done, err := a.openRepository(ctx, loaded, readOnly)
	if err != nil {
		return
	}
	defer done()
	all, _ := repo.Workspaces(ctx)
	for _, workspace := range nameWorkspaces(all) {
		use(workspace)
	}
}
