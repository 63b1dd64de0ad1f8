package terminal

const (
	inputDevice  = "CONIN$"
	outputDevice = "CONOUT$"
)
