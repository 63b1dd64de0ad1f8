package trust

import "net/http"

// OnWrite has fn called before each change of a file in d; its error stops the
// work as a crash would.
func (d *Dir) OnWrite(fn func(name string) error) { d.testOnlyWrite = fn }

// Through has h reach its server by rt and not by a network.
func (h *HTTP) Through(rt http.RoundTripper) {
	h.clients[h.base.Host] = &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
