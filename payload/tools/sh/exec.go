package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// A container's command is often `sh -c "exec server"`, or just `sh -c "server"`: the server must then become the
// container's process, or signals would stop the shell and not the server. The interpreter only ever starts children,
// so the commands that may take the shell's place are found in the syntax tree before it runs.

// replaceable lists the offsets of commands after which nothing of program is left to do: each `exec` that runs in the
// shell itself, and the last statement if the program is a single simple command.
func replaceable(program *syntax.File) map[uint]bool {
	offsets := map[uint]bool{}
	if len(program.Stmts) == 1 && runsHere(program.Stmts[0]) {
		if call, ok := program.Stmts[0].Cmd.(*syntax.CallExpr); ok && len(call.Args) > 0 {
			offsets[call.Pos().Offset()] = true
		}
	}
	syntax.Walk(program, func(node syntax.Node) bool {
		switch node := node.(type) {
		case *syntax.Subshell, *syntax.CmdSubst, *syntax.ProcSubst, *syntax.FuncDecl:
			return false // another process in a real shell, a goroutine here; a function may be called in one
		case *syntax.BinaryCmd:
			return node.Op != syntax.Pipe && node.Op != syntax.PipeAll
		case *syntax.Stmt:
			return runsHere(node)
		case *syntax.CallExpr:
			if len(node.Args) > 1 && node.Args[0].Lit() == "exec" {
				offsets[node.Pos().Offset()] = true
			}
		}
		return true
	})
	return offsets
}

// runsHere tells whether a statement's status is the program's own and nobody waits for it elsewhere.
func runsHere(statement *syntax.Stmt) bool {
	return !statement.Background && !statement.Coprocess && !statement.Negated
}

// replaceSelf replaces this process by the command, if it is one of those that may.
func (s *shell) replaceSelf(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		at := interp.HandlerCtx(ctx)
		if !at.Pos.IsValid() || !s.replaced[at.Pos.Offset()] {
			return next(ctx, args)
		}
		path, err := interp.LookPathDir(at.Dir, at.Env, args[0])
		if err != nil {
			return next(ctx, args) // it knows what to print
		}
		streams := []any{at.Stdin, at.Stdout, at.Stderr}
		for number, stream := range streams {
			if file, ok := stream.(*os.File); !ok || syscall.Dup2(int(file.Fd()), number) != nil {
				return next(ctx, args)
			}
		}
		err = errors.Join(os.Chdir(at.Dir), syscall.Exec(path, args, exported(at.Env)))
		return errors.Join(err, next(ctx, args)) // reached only when the kernel refused: a script without #!, say
	}
}

// unknownBuiltins are builtins to the interpreter that it has not built: the commands of that name do the work.
var unknownBuiltins = []string{"kill"}

// preferCommands sends calls of unknown builtins to the commands.
//
// Simplified: background jobs are goroutines here, so $! is no process id and `kill $!` fails.
func preferCommands(ctx context.Context, args []string) ([]string, error) {
	if slices.Contains(unknownBuiltins, args[0]) {
		at := interp.HandlerCtx(ctx)
		if path, err := interp.LookPathDir(at.Dir, at.Env, args[0]); err == nil {
			args = append([]string{path}, args[1:]...)
		}
	}
	return args, nil
}

// exported lists the variables that a command inherits.
func exported(env expand.Environ) []string {
	var list []string
	for name, variable := range env.Each {
		if variable.Exported && variable.Kind == expand.String {
			list = append(list, name+"="+variable.String())
		}
	}
	return list
}
