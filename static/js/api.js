/** The JSON API from the page's side: one function, one kind of error. */

export class ApiError extends Error {
  /** status 0: the server was not reached; 403 with not_authenticated: signed out. */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  get unreachable() {
    return this.status === 0 || this.status >= 502 || this.status === 429;
  }

  get signedOut() {
    return this.status === 401 || this.code === "not_authenticated";
  }
}

function csrfToken(cookieName) {
  const prefix = `${cookieName}=`;
  const cookie = document.cookie.split("; ").find((pair) => pair.startsWith(prefix));
  return cookie
    ? decodeURIComponent(cookie.slice(prefix.length))
    : document.querySelector("[name=csrfmiddlewaretoken]").value;
}

/** Send JSON, get JSON; throws ApiError. */
export async function send(method, url, body, { csrfCookie = "csrftoken", keepalive = false } = {}) {
  let response;
  try {
    response = await fetch(url, {
      method,
      keepalive,
      headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken(csrfCookie) },
      body: JSON.stringify(body ?? {}),
      signal: keepalive ? undefined : AbortSignal.timeout(20_000),
    });
  } catch {
    throw new ApiError(0, "unreachable", "");
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    /* an error page of a proxy, or nothing at all */
  }
  if (!response.ok) {
    const error = answer?.error ?? {};
    throw new ApiError(response.status, error.code ?? "error", error.message ?? response.statusText);
  }
  return answer;
}
