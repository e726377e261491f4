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

/** A random UUID; crypto.randomUUID is not there on a page without TLS. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/* half an emoji, as a deletion in the middle leaves it, cannot be stored: it becomes a replacement sign */
const HALF = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|\0/g;
const whole = (_, value) => (typeof value === "string" ? value.replace(HALF, "\ufffd") : value);

/** As the cookie has it now: signing in again, in another window perhaps, changes it. */
export function csrfToken(cookieName) {
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
      body: JSON.stringify(body ?? {}, whole),
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
